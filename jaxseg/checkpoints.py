"""Weights by folder, file or Hugging Face id: `save_pretrained` and `from_pretrained`.

pretrained = from_pretrained("facebook/detr-resnet-50")
output = pretrained.model.apply({"params": pretrained.params}, images)
"""

import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxseg import __version__, hub, native
from jaxseg.data.classes import Classes
from jaxseg.errors import UserError
from jaxseg.native import is_native
from jaxseg.params import abstract_params, flatten, reads_captions, unflatten
from jaxseg.pretrained import ImageConfig, Pretrained, Source, assemble, check_shapes
from jaxseg.probe import record_probe
from jaxseg.text.vocabulary import find_vocabulary, keep_vocabulary

logger = logging.getLogger(__name__)

ASSUMED_COCO = {
    91: "COCO's class names (91 labels, as in the published weights)",
    250: "COCO's names of things and stuff (250 labels, as in the published panoptic weights)",
}
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def save_pretrained(
    directory: str | os.PathLike,
    model_name: str,
    model_kwargs: Mapping[str, Any],
    params: Mapping,
    *,
    classes: Classes | None = None,
    image: ImageConfig | None = None,
    origin: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
    dropped: Sequence[str] = (),
    vocabulary: str | os.PathLike | None = None,
    text_length: int | None = None,
    probe: bool = True,
    replace: bool = True,
) -> None:
    """Write a folder that `from_pretrained` rebuilds the model from, whole or not at all.

    Args:
      model_name: in `models.MODELS`.
      model_kwargs: the builder's keyword arguments; plain data and dtypes.
      params: nested arrays of the model.
      origin: `Pretrained.origin`, so that the official form can be written again.
      notes, dropped: of `Source`, to be told again by whoever loads the folder.
      vocabulary: a vocab.txt or tokenizer.json, to lie beside the weights.
      text_length: of `Pretrained`.
      probe: store the digests that `jaxseg verify` compares with (one small forward pass).
      replace: overwrite native weights that are there.

    Raises:
      UserError: parameters that are not the model's (each is named), or a folder that holds
        anything but native weights.
    """
    image = image or ImageConfig()
    model = native.build_model(model_name, model_kwargs, "save_pretrained")
    flat = {path: np.asarray(leaf) for path, leaf in flatten(params).items()}
    check_shapes(flat, flatten(abstract_params(model)), f"parameters for {model_name}")
    _check_classes(model, classes)
    config = {
        "format": "jaxseg",
        "version": native.FORMAT,
        "jaxseg": __version__,
        "model": model_name,
        "kwargs": native.encode_kwargs(model_kwargs),
        "classes": classes.to_json() if classes else None,
        "image": asdict(image),
    }
    told = {"origin": origin and dict(origin), "notes": list(notes), "dropped": list(dropped)}
    told["text_length"] = text_length
    config |= {name: value for name, value in told.items() if value}

    def write(folder: Path) -> None:
        config["sha256"] = native.write_weights(folder / native.WEIGHTS, flat)
        if probe:
            record = record_probe(model_name, model_kwargs, unflatten(flat), image)
            native.write_json(folder / native.PROBE, record)
        if vocabulary is not None:
            keep_vocabulary(vocabulary, folder)
        native.write_json(folder / native.CONFIG, config)

    native.write_folder(directory, write, replace=replace)


def from_pretrained(
    name_or_path: str | os.PathLike,
    *,
    model: str | None = None,
    num_classes: int | None = None,
    classes: Classes | None = None,
    revision: str | None = None,
    local_files_only: bool | None = None,
    say: Callable[[str], None] = logger.warning,
    **model_overrides: Any,
) -> Pretrained:
    """Load a model with its weights.

    Args:
      name_or_path: a folder of `save_pretrained` or of Hugging Face's `save_pretrained`, an
        official `.pth` or `.safetensors` file, or a Hugging Face id, which is fetched,
        converted and kept.
      model: builder of an official file, whose keys do not tell a DC5 model from a plain one;
        other forms say it themselves and must agree.
      num_classes, classes: what the model shall tell apart. If the weights were made for other
        classes, the class head starts from random weights.
      revision: branch, tag or commit of a Hugging Face id.
      local_files_only: never reach for the network; by default as HF_HUB_OFFLINE says.
      say: is told what had to be assumed, and what starts from random weights; by default the
        log.
      model_overrides: builder arguments that replace the stored ones (canvas="exact", dtype=...).

    Raises:
      UserError: nothing there, damaged or unknown weights, or shapes that do not fit.
    """
    heads = model_overrides.get("num_heads") if Path(name_or_path).is_file() else None
    source = open_source(
        name_or_path,
        model=model,
        num_heads=heads,
        revision=revision,
        local_files_only=local_files_only,
        say=say,
    )
    for note in source.notes:
        say(f"{name_or_path}: assumed {note}")
    return assemble(source, str(name_or_path), num_classes, classes, model_overrides, say)


def open_source(
    name_or_path: str | os.PathLike,
    *,
    model: str | None = None,
    num_heads: int | None = None,
    revision: str | None = None,
    local_files_only: bool | None = None,
    say: Callable[[str], None] = logger.warning,
) -> Source:
    """Find and read weights; foreign ones are converted. Arguments of `from_pretrained`."""
    path = Path(name_or_path)
    if num_heads is not None and not path.is_file():
        raise UserError(
            f"{name_or_path} says itself how many heads its model has; num_heads={num_heads} is "
            "for an official file, which does not"
        )
    if path.exists():
        source = _open_local(path, model, num_heads)
    elif HUB_ID.fullmatch(str(name_or_path)):
        source = _open_hub(str(name_or_path), revision, local_files_only, say)
    else:
        raise UserError(
            f"{name_or_path} does not exist; give a folder of weights, a .pth or .safetensors "
            "file, or a Hugging Face id such as facebook/detr-resnet-50"
        )
    if model not in (None, source.name):
        raise UserError(
            f"{name_or_path} says itself that its model is {source.name}; {model} was asked for: "
            "leave the model out"
        )
    return source


def _open_hub(repo: str, revision: str | None, local_files_only: bool | None, say) -> Source:
    snapshot = hub.fetch(repo, revision, local_files_only)
    if is_native(snapshot):
        return _open_native(snapshot)
    folder = hub.converted_folder(repo, snapshot.name)
    if _is_kept(folder):
        return _open_native(folder)
    source = _open_local(snapshot)
    try:
        told = {"notes": source.notes, "dropped": source.dropped}
        save_source(source, folder, probe=False, replace=False, **told)
    except (UserError, OSError) as error:
        if not _is_kept(folder):  # else another process was first
            say(f"{repo}: converted, but it will be converted again next time: {error}")
    return source


def _is_kept(folder: Path) -> bool:
    """Whether there is a conversion; a cache that cannot be read has none."""
    try:
        return is_native(folder)
    except (UserError, OSError):
        return False


def load_backbone(
    path: str | os.PathLike, model: nn.Module, say: Callable[[str], None] = logger.warning
) -> dict:
    """Nested parameters for `model`'s backbone, such as ImageNet's to begin a training with.

    Args:
      path: a backbone's own file (torchvision's ResNets, Swin, plain ViTs) or Hugging Face
        folder, or a detector's whose backbone is taken: an official file, a native folder (or
        the weights in it) or one of Hugging Face.
      model: a detector with a backbone of the same size, or Segment Anything, whose image encoder
        begins as MAE's; foreign ResNets have frozen batch norms.
      say: is told what had to be resized.

    Raises:
      UserError: unreadable weights, or a report of all that does not fit.
    """
    path, shapes = Path(path), _backbone_of(abstract_params(model))
    if not path.exists():
        raise UserError(
            f"there is no backbone {path}: give a file or folder, such as torchvision's ResNet-50 "
            "(https://download.pytorch.org/models/resnet50-0676ba61.pth)"
        )
    folder = path.parent if path.name == native.WEIGHTS else path
    if is_native(folder):
        return _native_part(folder, "backbone/", flatten(shapes))
    from jaxseg_convert_torch.backbones import load_backbone_file

    return jax.tree.map(jnp.asarray, load_backbone_file(path, shapes, say))


def load_text(name_or_path: str | os.PathLike, model: nn.Module) -> dict:
    """Nested parameters for the BERT in `model`, to begin a training with.

    Args:
      name_or_path: a file or folder of BERT's, or a Hugging Face id; or a Grounding DINO's, whose
        BERT is taken.
      model: with a BERT of the same size; a pooler that the model lacks is left out.

    Raises:
      UserError: unreadable weights, or a report of all that does not fit.
    """
    path, shapes = Path(name_or_path), abstract_params(model)["bert"]
    if not path.exists() and HUB_ID.fullmatch(str(name_or_path)):
        path = hub.fetch(str(name_or_path))
    if not path.exists():
        raise UserError(
            f"there are no weights of BERT at {path}: give a file or folder of them, or a Hugging "
            "Face id such as google-bert/bert-base-uncased"
        )
    folder = path.parent if path.name == native.WEIGHTS else path
    if is_native(folder):
        return _native_part(folder, "bert/", flatten(shapes), spare="pooler/")
    from jaxseg_convert_torch.backbones import load_text_file

    return jax.tree.map(jnp.asarray, load_text_file(path, shapes))


def _backbone_of(shapes: Mapping[str, Any]) -> Mapping[str, Any]:
    """Segment Anything's is the transformer of its image encoder."""
    return shapes["image_encoder"]["vit"] if "image_encoder" in shapes else shapes["backbone"]


def _native_part(
    folder: Path, prefix: str, shapes: Mapping[str, Any], spare: str | None = None
) -> dict:
    """What lies under a prefix; of what lies under `spare` in it, what the model has."""
    flat = {
        path.removeprefix(prefix): value
        for path, value in _open_native(folder).flat.items()
        if path.startswith(prefix)
    }
    if spare is not None:
        flat = {p: x for p, x in flat.items() if p in shapes or not p.startswith(spare)}
    check_shapes(flat, shapes, f"the {prefix.rstrip('/')} of {folder}")
    return unflatten({p: jnp.asarray(value, shapes[p].dtype) for p, value in flat.items()})


def save_source(source: Source, directory: str | os.PathLike, **options: Any) -> None:
    """Write weights as found in the native form; `options` are `save_pretrained`'s."""
    save_pretrained(
        directory,
        source.name,
        source.kwargs,
        unflatten(source.flat),
        classes=source.classes,
        image=source.image,
        origin=source.origin,
        vocabulary=source.vocabulary,
        text_length=source.text_length,
        **options,
    )


def _open_local(path: Path, model: str | None = None, num_heads: int | None = None) -> Source:
    if path.is_dir() and is_native(path):
        return _open_native(path)
    # The converter imports this package; nothing else here may import the converter.
    from jaxseg_convert_torch.sources import open_foreign

    return open_foreign(path, model, num_heads)


def _open_native(directory: Path) -> Source:
    config = native.read_native_config(directory)
    try:
        classes = Classes.from_json(config["classes"]) if config["classes"] else None
        image = ImageConfig(**config["image"])
        told = [list(config.get(name, ())) for name in ("notes", "dropped")]
        length = config.get("text_length")
        length = None if length is None else int(length)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{directory / native.CONFIG} is damaged: {error}") from error
    model = native.build_model(config["model"], config["kwargs"], str(directory / native.CONFIG))
    if classes and len(classes) != (labels := _labels(model, classes)):
        raise UserError(
            f"{directory / native.CONFIG} names {len(classes)} classes and its model has "
            f'{labels}; mend its "classes", or set them to null'
        )
    flat = native.read_weights(directory / native.WEIGHTS)
    about = (classes, image, config.get("origin"), *told, find_vocabulary(directory), length)
    return Source(flat, config["model"], config["kwargs"], *about)


def _check_classes(model, classes) -> None:
    if classes is not None and len(classes) != (labels := _labels(model, classes)):
        raise UserError(
            f"{len(classes)} classes were given for a model of {labels}; "
            "build it with num_classes=len(classes)"
        )


def _labels(model, classes: Classes) -> int:
    """How many classes a model tells apart; Segment Anything none, one that is told them any."""
    return len(classes) if reads_captions(model) else getattr(model, "num_classes", 0)

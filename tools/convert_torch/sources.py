"""Official files and Hugging Face folders as `checkpoints.Source`, and back."""

import logging
from collections.abc import Callable
from pathlib import Path

from flax import linen as nn

from jaxseg.backbones.resnet import FrozenBatchNorm
from jaxseg.checkpoints import ASSUMED_COCO
from jaxseg.data.classes import COCO_91, COCO_PANOPTIC
from jaxseg.errors import UserError
from jaxseg.models import MODELS
from jaxseg.models.clip import Clip
from jaxseg.models.dab_deformable_detr import DabDeformableDetr
from jaxseg.models.dab_detr import EPSILON, DabDetr
from jaxseg.models.deformable_detr import DeformableDetr
from jaxseg.models.detr import DetrSegmentation
from jaxseg.models.dino import Dino
from jaxseg.models.grounding_dino import GroundingDino
from jaxseg.models.sam import Sam
from jaxseg.native import beneath, build_model, read_json, write_folder, write_json
from jaxseg.params import flatten
from jaxseg.pretrained import ImageConfig, Pretrained, Source
from jaxseg.text.vocabulary import find_vocabulary, keep_vocabulary
from jaxseg_convert_torch import TABLES, convert, detect_table, revert
from jaxseg_convert_torch.backbones import BACKBONES
from jaxseg_convert_torch.files import read_checkpoint, write_state_dict
from jaxseg_convert_torch.huggingface import read_config
from jaxseg_convert_torch.huggingface_anchors import DAB_EPSILON
from jaxseg_convert_torch.huggingface_clip import (
    activation_of,
    clip_image,
    read_clip_preprocessor,
    write_clip_config,
    write_clip_preprocessor,
)
from jaxseg_convert_torch.huggingface_grounding import EPSILON as GROUNDING_EPSILON
from jaxseg_convert_torch.huggingface_grounding import write_grounding_config
from jaxseg_convert_torch.huggingface_sam import write_sam_config, write_sam_preprocessor
from jaxseg_convert_torch.huggingface_writer import (
    family,
    huggingface_form,
    processor,
    write_config,
)
from jaxseg_convert_torch.infer import infer_detr
from jaxseg_convert_torch.infer_anchors import BERT_HEAD, FAMILIES, infer_anchors, shares_heads
from jaxseg_convert_torch.infer_clip import ACTIVATION, HEAD, infer_clip
from jaxseg_convert_torch.infer_clip import EPSILON as CLIP_EPSILON
from jaxseg_convert_torch.infer_sam import OFFICIAL_EPSILON, infer_sam
from jaxseg_convert_torch.preprocessor import read_preprocessor, write_preprocessor

logger = logging.getLogger(__name__)

# Whether masks are drawn -> the table of official files.
OFFICIAL = {False: "detr", True: "detr.segmentation"}
# The tables of Segment Anything's and of CLIP's official files, which also name their models.
SAM, CLIP = "sam", "clip"
GROUNDING = "grounding_dino"
# Models with a choice of the epsilon of their inverse sigmoid.
CUTTING = {DabDetr: "DAB-DETR", GroundingDino: "Grounding DINO"}
# What the labels of published weights stand for, by their number.
COCO = {len(classes): classes for classes in (COCO_91, COCO_PANOPTIC)}


def open_foreign(path: Path, model: str | None = None, num_heads: int | None = None) -> Source:
    """Read and convert a Hugging Face folder or an official file.

    Args:
      model, num_heads: of an official file; a Hugging Face folder says them itself.

    Raises:
      UserError: nothing that can be converted; the report says what does not fit.
    """
    if model is not None and model not in MODELS:
        raise UserError(f"no model {model!r}; there are {', '.join(sorted(MODELS))}")
    return _open_huggingface(path) if path.is_dir() else _open_official(path, model, num_heads)


def _open_huggingface(folder: Path) -> Source:
    if not (folder / "config.json").exists():
        raise UserError(
            f"{folder} has no config.json: give a folder that `jaxseg convert` wrote, `last` or "
            "`best` of a training's working folder, one of Hugging Face's save_pretrained, or a "
            f"weights file{beneath(folder)}"
        )
    try:
        name, kwargs, classes, notes = read_config(read_json(folder / "config.json"))
        model = build_model(name, kwargs, "config.json")
        preprocessor = folder / "preprocessor_config.json"
        content = read_json(preprocessor) if preprocessor.exists() else {}
        read = read_clip_preprocessor if isinstance(model, Clip) else read_preprocessor
        image, image_notes = read(content, getattr(model, "canvas_size", None))
    except UserError as error:
        raise UserError(f"{folder}: {error}") from error
    state = read_checkpoint(folder).tensors
    converted = convert(TABLES[_huggingface_table(state, model)], state, model)
    return Source(
        flatten(converted.params),
        name,
        kwargs,
        classes,
        image,
        converted.origin,
        notes=notes + image_notes,
        dropped=converted.dropped,
        vocabulary=find_vocabulary(folder),
    )


def _huggingface_table(state, model: nn.Module) -> str:
    """Keys tell whose names and whose ResNet they are, but not always how heads are shared."""
    table = detect_table(state)
    if not table.startswith("deformable_detr.huggingface") or not isinstance(model, DeformableDetr):
        return table
    return ".".join(table.split(".")[:2]) + family(model)[1]


def _open_official(path: Path, model: str | None, num_heads: int | None) -> Source:
    state, args = read_checkpoint(path)
    table = detect_table(state)
    if table not in (*OFFICIAL.values(), *FAMILIES, SAM, CLIP):
        remedy = (
            f"begin a training with it, `jaxseg train CONFIG backbone={path}`, or load it into a "
            "detector's backbone with checkpoints.load_backbone"
        )
        if table not in BACKBONES:
            remedy = "give the folder that it lies in, with its config.json"
        raise UserError(f"{path} holds weights of the form {TABLES[table].title}; {remedy}")
    if table == SAM:
        inferred = infer_sam(state, path.name, model, num_heads)
    elif table == CLIP:
        inferred = infer_clip(state, path.name, model, num_heads)
    elif table in FAMILIES:
        if table == "dino" and not shares_heads(state):
            table = "dino.unshared"
        inferred = infer_anchors(table, state, args, path.name, model, num_heads)
    else:
        inferred = infer_detr(state, args, path.name, model, num_heads)
    built = build_model(inferred.name, inferred.kwargs, str(path))
    converted = convert(TABLES[table], state, built)
    labels = getattr(built, "num_classes", None)
    return Source(
        flatten(converted.params),
        inferred.name,
        inferred.kwargs,
        COCO.get(labels),
        _image_of(built),
        origin=converted.origin,
        notes=inferred.assumptions + [ASSUMED_COCO[n] for n in COCO if n == labels],
        dropped=converted.dropped,
    )


def _image_of(model: nn.Module) -> ImageConfig:
    if isinstance(model, Clip):
        return clip_image(model.canvas_size)
    side = getattr(model, "canvas_size", None)
    return ImageConfig() if side is None else ImageConfig(short_side=side, long_side=side)


def write_official(
    pretrained: Pretrained, path: Path, say: Callable[[str], None] = logger.warning
) -> int:
    """Write weights as an official `.pth` or `.safetensors`; returns the number of tensors.

    Args:
      say: is told what the original computes otherwise.

    Raises:
      UserError: the official model has no such part, or see `files.write_state_dict`.
    """
    if isinstance(pretrained.model, Sam):
        return _write_sam(pretrained, path, say)
    if isinstance(pretrained.model, Clip):
        return _write_clip(pretrained, path, say)
    if getattr(pretrained.model.backbone, "norm", FrozenBatchNorm) is not FrozenBatchNorm:
        raise UserError(
            "official detectors have frozen batch normalisation in their ResNets, this model group "
            "normalisation, whose weights would be taken for the other's; keep it native"
        )
    form = official_form(pretrained.model)
    origin = pretrained.origin if _form(pretrained) == form else None
    state = revert(TABLES[form], pretrained.params, origin)
    write_state_dict(state, path)
    _compare_epsilon(pretrained.model, EPSILON, "the original", say)
    if isinstance(pretrained.model, GroundingDino) and (hidden := hidden_parts(pretrained.model)):
        say(
            f"no tensor shows {', '.join(hidden)}, which official models have otherwise: {path} is "
            "read as a model without"
        )
    if getattr(pretrained.model.backbone, "dilation", False):
        say(
            f"no tensor shows that the backbone is dilated, nor what follows from it: name the "
            f"model, {pretrained.name}, wherever {path} is read"
        )
    return len(state)


def _write_sam(pretrained: Pretrained, path: Path, say) -> int:
    origin = pretrained.origin if _form(pretrained) == SAM else None
    state = revert(TABLES[SAM], pretrained.params, origin)
    write_state_dict(state, path)
    epsilon = pretrained.model.mask_decoder.transformer.epsilon
    if epsilon != OFFICIAL_EPSILON:
        say(
            f"the original's two-way layers normalise with epsilon {OFFICIAL_EPSILON:g}, this "
            f"model's with {epsilon:g}: its masks differ a little there"
        )
    return len(state)


def _write_clip(pretrained: Pretrained, path: Path, say) -> int:
    origin = pretrained.origin if _form(pretrained) == CLIP else None
    state = revert(TABLES[CLIP], pretrained.params, origin)
    write_state_dict(state, path)
    image, text = pretrained.model.image, pretrained.model.text
    heads = [tower.width // tower.num_heads for tower in (image, text)]
    found = (activation_of(pretrained.model), image.epsilon, *heads)
    if found != (ACTIVATION, CLIP_EPSILON, HEAD, HEAD):
        say(
            f"OpenAI's CLIP has the activation {ACTIVATION!r}, epsilon {CLIP_EPSILON:g} and heads "
            f"{HEAD} wide, which no tensor shows; this model has {found[0]!r}, {found[1]:g} and "
            f"heads {heads[0]} and {heads[1]} wide: it computes something else there"
        )
    return len(state)


def official_form(model: nn.Module) -> str:
    """The table of the official files of a model."""
    if isinstance(model, GroundingDino):
        return GROUNDING
    if isinstance(model, Dino):
        return "dino" if model.shared_heads else "dino.unshared"
    if isinstance(model, DeformableDetr):
        return "deformable_detr.refine" if model.refine else "deformable_detr"
    if isinstance(model, DabDetr):
        return "dab_detr" if model.neck is None else "dab_detr.encoder_only"
    if isinstance(model, DabDeformableDetr):
        return "dab_deformable_detr"
    return OFFICIAL[isinstance(model, DetrSegmentation)]


def write_huggingface(
    pretrained: Pretrained, folder: Path, say: Callable[[str], None] = logger.warning
) -> int:
    """Write a folder that transformers loads, as a `DetrForObjectDetection` or whatever else the
    model is there; returns the number of tensors.

    Args:
      say: is told what transformers computes otherwise.

    Raises:
      UserError: no class names, a model or part that transformers lacks, or a folder with files.
    """
    model, came = pretrained.model, _form(pretrained)
    if isinstance(model, Sam):
        return _write_sam_folder(pretrained, folder)
    if isinstance(model, Clip):
        return _write_clip_folder(pretrained, folder)
    if isinstance(model, GroundingDino):
        return _write_grounding_folder(pretrained, folder, say)
    if pretrained.classes is None:
        raise UserError(
            "Hugging Face's form needs class names, which these weights do not have; give them "
            "with --classes (classes= in Python)"
        )
    form = huggingface_form(model, came)
    config = write_config(model, pretrained.classes, form)
    origin = pretrained.origin if form == came else None
    state = revert(TABLES[form], pretrained.params, origin)
    preprocessor = write_preprocessor(pretrained.image, processor(model))

    _write_folder(folder, state, config, preprocessor)
    _compare_epsilon(model, DAB_EPSILON, "transformers'", say)
    return len(state)


def _write_sam_folder(pretrained: Pretrained, folder: Path) -> int:
    form, model = f"{SAM}.huggingface", pretrained.model
    config = write_sam_config(model)
    origin = pretrained.origin if _form(pretrained) == form else None
    state = revert(TABLES[form], pretrained.params, origin)
    preprocessor = write_sam_preprocessor(pretrained.image, model.canvas_size, model.mask_size)
    _write_folder(folder, state, config, preprocessor)
    return len(state)


def _write_clip_folder(pretrained: Pretrained, folder: Path) -> int:
    form, model = f"{CLIP}.huggingface", pretrained.model
    origin = pretrained.origin if _form(pretrained) == form else None
    state = revert(TABLES[form], pretrained.params, origin)
    preprocessor = write_clip_preprocessor(pretrained.image, model.canvas_size)
    _write_folder(folder, state, write_clip_config(model), preprocessor)
    return len(state)


def _write_grounding_folder(pretrained: Pretrained, folder: Path, say) -> int:
    form, model = f"{GROUNDING}.huggingface", pretrained.model
    config = write_grounding_config(model)
    origin = pretrained.origin if _form(pretrained) == form else None
    if model.bert.pooler:
        say("transformers' Grounding DINO has no pooler in its BERT, which nothing reads: left out")
    params = {name: part for name, part in pretrained.params.items() if name != "bert"}
    bert = {k: part for k, part in pretrained.params["bert"].items() if k != "pooler"}
    state = revert(TABLES[form], params | {"bert": bert}, origin)
    preprocessor = write_preprocessor(pretrained.image, "GroundingDinoImageProcessor")
    _write_folder(folder, state, config, preprocessor, pretrained.vocabulary)
    _compare_epsilon(model, GROUNDING_EPSILON, "transformers'", say)
    return len(state)


def hidden_parts(model: GroundingDino) -> list[str]:
    """What of a model is other than in the official ones, and in no tensor's shape."""
    encoder, bert = model.encoder, model.bert
    others = {
        f"text_level={model.text_level!r}": model.text_level != "sub_sentence",
        f"bert_heads={bert.num_heads}": bert.num_heads != max(1, bert.width // BERT_HEAD),
        f"num_heads={encoder.num_heads}": encoder.num_heads != 8,
        f"text_heads={encoder.text_heads}": encoder.text_heads != 4,
        f"fusion_heads={encoder.fusion_heads}": encoder.fusion_heads != 4,
    }
    return [what for what, there in others.items() if there]


def _write_folder(folder: Path, state, config, preprocessor, vocabulary=None) -> None:
    def write(partial: Path) -> None:
        if vocabulary is not None:
            keep_vocabulary(vocabulary, partial)
        write_state_dict(state, partial / "model.safetensors")
        write_json(partial / "config.json", config)
        write_json(partial / "preprocessor_config.json", preprocessor)

    write_folder(folder, write, replace=False)


def _compare_epsilon(model, epsilon: float, whose: str, say) -> None:
    called = next((name for kind, name in CUTTING.items() if isinstance(model, kind)), None)
    if called is not None and model.epsilon != epsilon:
        say(
            f"{whose} {called} cuts logits of boxes off at {epsilon:g}, this model at "
            f"{model.epsilon:g}: boxes nearer than that to a border, or smaller, differ there"
        )


def _form(pretrained: Pretrained) -> str | None:
    return (pretrained.origin or {}).get("table")

"""Weights with what is known of them, and the model that is built around them."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxseg import native
from jaxseg.data.classes import Classes
from jaxseg.errors import UserError
from jaxseg.models.clip import Clip
from jaxseg.ops.images import IMAGENET_MEAN, IMAGENET_STD
from jaxseg.params import abstract_inputs, abstract_params, flatten, unflatten
from jaxseg.text.bpe import BytePairs
from jaxseg.text.wordpiece import WordPiece
from jaxseg.vocabularies import load_tokenizer

# Whose vocabulary Grounding DINO was trained with.
BERT = "google-bert/bert-base-uncased"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageConfig:
    """How images are prepared for a model.

    Attributes:
      mean, std: of RGB in [0, 1].
      short_side, long_side: pixels; the short side is resized to the one, the long side never
        past the other.
    """

    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    short_side: int = 800
    long_side: int = 1333

    def __post_init__(self):
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "std", tuple(self.std))


class Pretrained(NamedTuple):
    """A model with its weights.

    Attributes:
      model: unbound module; call `model.apply({"params": params}, images)`.
      params: nested arrays on the default device.
      classes: of the model's labels, None if the source does not name them.
      image: how to prepare images.
      name, kwargs: what `models.build` made the model from.
      origin: what the way back to the source's own form needs, None for weights made here.
      fresh: flat paths of parameters that were drawn at random, for other classes.
      vocabulary: file that the texts of a model with a text encoder are tokenised by, if the
        source has one.
      text_length: tokens of the captions that it was trained with; None: as many as released
        models read.
    """

    model: nn.Module
    params: dict
    classes: Classes | None
    image: ImageConfig
    name: str
    kwargs: dict[str, Any]
    origin: dict[str, Any] | None = None
    fresh: frozenset[str] = frozenset()
    vocabulary: Path | None = None
    text_length: int | None = None

    def tokenizer(self, vocabulary: str | Path | None = None) -> WordPiece | BytePairs:
        """What texts are tokenised by: word pieces, or CLIP's byte pairs.

        Args:
          vocabulary: a file, folder or (of word pieces) a Hugging Face id instead of the source's
            own. Where neither is there, BERT's is taken from the hub's cache, or fetched.

        Raises:
          UserError: there is none, or the model reads no text; says what may be given.
        """
        given = vocabulary or self.vocabulary
        if isinstance(self.model, Clip):
            return _byte_pairs(given)
        if not hasattr(self.model, "bert"):
            raise UserError(f"a {type(self.model).__name__} reads no text, and has no tokeniser")
        if given is not None:
            return load_tokenizer(given)
        try:
            return load_tokenizer(BERT)
        except UserError as error:
            raise UserError(
                f"the weights hold no vocabulary (official files have none), and {BERT}'s is not "
                f"to be had ({error}); give a vocab.txt, a tokenizer.json, a folder with one of "
                "them or a Hugging Face id (--vocab, vocabulary= in Python)"
            ) from None


def _byte_pairs(given: str | Path | None) -> BytePairs:
    if given is None:
        raise UserError(
            "the weights of this CLIP have no byte pairs beside them: give OpenAI's "
            "bpe_simple_vocab_16e6.txt.gz, or a Hugging Face folder with vocab.json and merges.txt "
            "(vocabulary= in Python)"
        )
    return BytePairs(given)


@dataclass
class Source:
    """Weights as found, before a model is built of them.

    Attributes:
      flat: numpy arrays by flat path.
      notes: what had to be assumed about the model.
      dropped: official keys that were left out on purpose.
      vocabulary, text_length: as in `Pretrained`.
    """

    flat: dict[str, np.ndarray]
    name: str
    kwargs: dict[str, Any]
    classes: Classes | None = None
    image: ImageConfig = field(default_factory=ImageConfig)
    origin: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    vocabulary: Path | None = None
    text_length: int | None = None


def assemble(
    source: Source,
    origin: str,
    num_classes: int | None = None,
    classes: Classes | None = None,
    overrides: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = logger.warning,
) -> Pretrained:
    """Build the model of weights as found; `origin` names them in errors, the rest is
    `from_pretrained`'s."""
    if classes is not None and num_classes not in (None, len(classes)):
        raise UserError(f"num_classes={num_classes}, but {len(classes)} classes were given")
    kwargs = dict(source.kwargs) | dict(overrides or {})
    stored = native.build_model(source.name, kwargs, origin)
    wanted = len(classes) if classes is not None else num_classes
    if wanted is not None and not hasattr(stored, "num_classes"):
        raise UserError(
            f"{origin} holds a {type(stored).__name__}, which tells no classes apart: it cannot be "
            "loaded for some"
        )
    if wanted is not None:
        kwargs["num_classes"] = wanted
    model = native.build_model(source.name, kwargs, origin)
    fresh: set[str] = set()
    if wanted is not None and _other_classes(stored, model, source.classes, classes):
        fresh = class_head(source.name, kwargs)
        say(_about_fresh(origin, stored, model, fresh))
    shapes = flatten(abstract_params(model))
    kept = {path: value for path, value in source.flat.items() if path not in fresh}
    wanted = {p: s for p, s in shapes.items() if p not in fresh}
    check_shapes(kept, wanted, origin, lambda: class_head(source.name, kwargs))
    flat = {path: jnp.asarray(value, shapes[path].dtype) for path, value in kept.items()}
    flat |= initial_params(model, fresh)
    names = classes or (None if fresh else source.classes)
    params = unflatten({path: flat[path] for path in shapes})
    about = (source.image, source.name, kwargs, source.origin, frozenset(fresh))
    return Pretrained(model, params, names, *about, source.vocabulary, source.text_length)


def _other_classes(stored, model, stored_classes, classes) -> bool:
    if stored.num_classes != model.num_classes:
        return True
    known = classes is not None and stored_classes is not None
    return known and classes.names != stored_classes.names


def _about_fresh(origin, stored, model, fresh) -> str:
    others = "others" if stored.num_classes == model.num_classes else "classes"
    return (
        f"{origin} was made for {stored.num_classes} classes and is loaded for "
        f"{model.num_classes} {others}: {', '.join(sorted(fresh))} start from random weights and "
        "must be trained"
    )


def class_head(name: str, kwargs: Mapping[str, Any]) -> set[str]:
    """Flat paths of the parameters whose shapes follow from the number of classes."""
    few, many = (
        flatten(abstract_params(native.build_model(name, {**kwargs, "num_classes": n}, name)))
        for n in (3, 4)
    )
    return {path for path in few if few[path].shape != many[path].shape}


def initial_params(model: nn.Module, paths: set[str], seed: int = 0) -> dict[str, jax.Array]:
    """Freshly drawn parameters of a model at some flat paths; the others are not computed."""
    if not paths:
        return {}
    inputs = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), abstract_inputs(model))

    def draw(key):
        flat = flatten(model.init(key, *inputs)["params"])
        return {path: flat[path] for path in sorted(paths)}

    return jax.jit(draw)(jax.random.key(seed))


def check_shapes(
    flat: Mapping[str, Any],
    shapes: Mapping[str, Any],
    what: str,
    head: Callable[[], set[str]] = set,
) -> None:
    """Raise `UserError` with a line for every parameter missing, unexpected or misshapen.

    Args:
      flat: arrays by flat path.
      shapes: what the model has.
      what: names the source in the message.
      head: paths whose shapes follow from the number of classes, asked for in case of need.
    """
    lines = [f"missing    {path}" for path in shapes if path not in flat]
    lines += [f"unexpected {path}" for path in flat if path not in shapes]
    lines += [
        f"misshapen  {path}: {flat[path].shape} came, the model has {tuple(shapes[path].shape)}"
        for path in flat
        if path in shapes and flat[path].shape != tuple(shapes[path].shape)
    ]
    if lines:
        hint = ""
        if any(path in flat and flat[path].shape != tuple(shapes[path].shape) for path in head()):
            hint = " (to load for another number of classes, pass num_classes= or classes=)"
        report = "\n".join(f"  {line}" for line in sorted(lines))
        raise UserError(f"{what} does not fit the model{hint}:\n{report}")

"""Parameter trees: flat paths, and their shapes without a weight in memory."""

import inspect
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.errors import FlaxError
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxseg.errors import UserError
from jaxseg.structures import Captions, DetectorOutput, Images, Targets

RNGS = ("dropout", "denoising")  # the streams that a training step gives to a model
CAPTION = 8  # tokens of a small caption; no parameter's shape depends on it


def flatten(params: Mapping) -> dict:
    """Nested parameters as {"encoder/layer_0/norm1/scale": leaf}."""
    return flatten_dict(params, sep="/")


def unflatten(flat: Mapping) -> dict:
    """The inverse of `flatten`."""
    return unflatten_dict(flat, sep="/")


def abstract_params(model: nn.Module) -> dict:
    """Nested `jax.ShapeDtypeStruct`s of what `model.init` would make.

    Raises:
      UserError: fields that do not fit together (a width that its heads do not divide).
    """
    inputs = abstract_inputs(model)
    try:
        return jax.eval_shape(lambda x: model.init(jax.random.key(0), *x), inputs)["params"]
    except (ValueError, TypeError, FlaxError) as error:
        raise UserError(f"this {type(model).__name__} cannot be built: {error}") from error


def reads_captions(model: nn.Module | None) -> bool:
    """Whether a model is told what to look for: called with `Images` and `Captions`."""
    return "captions" in inspect.signature(type(model).__call__).parameters


def abstract_inputs(model: nn.Module) -> tuple:
    """Shapes of a small input: `Images` for detectors, with `Captions` for those that read them;
    bare pixels for backbones, with ids of a text for CLIP."""
    size = getattr(model, "canvas_size", 2 * getattr(model, "stride", 32))
    pixels = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    parameters = inspect.signature(type(model).__call__).parameters
    if "ids" in parameters:
        return (pixels, jax.ShapeDtypeStruct((1, model.text.context), jnp.int32))
    if "images" not in parameters:
        return (pixels,)
    images = Images(pixels, jax.ShapeDtypeStruct((1, size, size), jnp.bool_))
    return (images, _abstract_captions()) if reads_captions(model) else (images,)


def _abstract_captions() -> Captions:
    row, square = (1, CAPTION), (1, CAPTION, CAPTION)
    return Captions(
        ids=jax.ShapeDtypeStruct(row, jnp.int32),
        mask=jax.ShapeDtypeStruct(row, jnp.bool_),
        attend=jax.ShapeDtypeStruct(square, jnp.bool_),
        positions=jax.ShapeDtypeStruct(row, jnp.int32),
    )


def abstract_output(model: nn.Module, params: Mapping) -> DetectorOutput:
    """Shapes of what a detector returns in training, for `abstract_inputs` with one object."""
    inputs = abstract_inputs(model)
    tokens = jax.ShapeDtypeStruct((1, 1, CAPTION), jnp.bool_) if reads_captions(model) else None
    targets = Targets(
        labels=jax.ShapeDtypeStruct((1, 1), jnp.int32),
        boxes=jax.ShapeDtypeStruct((1, 1, 4), jnp.float32),
        mask=jax.ShapeDtypeStruct((1, 1), jnp.bool_),
        tokens=tokens,
    )

    def forward(params, inputs, targets):
        rngs = {name: jax.random.key(0) for name in RNGS}
        return model.apply({"params": params}, *inputs, targets=targets, train=True, rngs=rngs)

    return jax.eval_shape(forward, params, inputs, targets)


def count(params: Mapping) -> int:
    """Numbers in a tree of arrays or shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))

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
from jaxseg.structures import DetectorOutput, Images, Targets

RNGS = ("dropout", "denoising")  # the streams that a training step gives to a model


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


def abstract_inputs(model: nn.Module) -> tuple:
    """Shapes of a small input: `Images` for detectors, bare pixels for backbones."""
    size = getattr(model, "canvas_size", 2 * getattr(model, "stride", 32))
    pixels = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    if "images" not in inspect.signature(type(model).__call__).parameters:
        return (pixels,)
    return (Images(pixels, jax.ShapeDtypeStruct((1, size, size), jnp.bool_)),)


def abstract_output(model: nn.Module, params: Mapping) -> DetectorOutput:
    """Shapes of what a detector returns in training, for `abstract_inputs` with one object."""
    (images,) = abstract_inputs(model)
    targets = Targets(
        labels=jax.ShapeDtypeStruct((1, 1), jnp.int32),
        boxes=jax.ShapeDtypeStruct((1, 1, 4), jnp.float32),
        mask=jax.ShapeDtypeStruct((1, 1), jnp.bool_),
    )

    def forward(params, images, targets):
        rngs = {name: jax.random.key(0) for name in RNGS}
        return model.apply({"params": params}, images, targets=targets, train=True, rngs=rngs)

    return jax.eval_shape(forward, params, images, targets)


def count(params: Mapping) -> int:
    """Numbers in a tree of arrays or shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))

"""Multi-scale deformable attention (Deformable DETR, arXiv 2010.04159, section 4.1, equation 3)."""

from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from jaxseg.kernels.ms_deform_attn import choice, partition
from jaxseg.kernels.ms_deform_attn.blocked import blocked
from jaxseg.kernels.ms_deform_attn.quad import chunked, ordered, quad
from jaxseg.kernels.ms_deform_attn.reference import Shapes, reference
from jaxseg.ops.compiler import by_platform
from jaxseg.typing import Array, Float

Implementation = Literal[
    "reference", "blocked", "quad", "chunked", "ordered", "pallas_tpu", "pallas_gpu"
]


def _pallas_tpu(*arguments) -> Array:
    from jaxseg.kernels.ms_deform_attn.pallas_tpu import pallas_tpu

    return pallas_tpu(*arguments)


def _pallas_gpu(*arguments) -> Array:
    from jaxseg.kernels.ms_deform_attn.pallas_gpu import pallas_gpu

    return pallas_gpu(*arguments)


IMPLEMENTATIONS: dict[str, Callable] = {
    "reference": reference,
    "blocked": blocked,
    "quad": quad,
    "chunked": chunked,
    "ordered": ordered,
    # Imported when first used: Pallas is no part of a CPU's program.
    "pallas_tpu": _pallas_tpu,
    "pallas_gpu": _pallas_gpu,
}
assert set(IMPLEMENTATIONS) == set(get_args(Implementation))


def ms_deform_attn(
    value: Float[Array, "b n m d"],
    shapes: Shapes,
    locations: Float[Array, "b q m l p 2"],
    weights: Float[Array, "b q m l p"],
    *,
    implementation: Implementation | None = None,
) -> Float[Array, "b q m*d"]:
    """Weighted sums of bilinear samples from several maps.

    A sample at (x, y) of a map of size (h, w) reads pixel coordinates (x·w − 0.5, y·h − 0.5):
    pixel centres are at half-integers, and each of the four neighbours counts 0 if it is
    outside. Sampling and sums are float32; the result has the dtype of `value`. Gradients
    reach values, locations and weights.

    Under an ambient mesh (`jax.set_mesh`) images are split over its axes "data" and "fsdp" and
    heads over "tensor", as far as their numbers allow it.

    Forward-mode derivatives (`jax.jvp`, `jax.hessian`) are the plain form's alone; take
    implementation="reference" for them. The others have gradients of their own.

    Implementations, of which None chooses one and a named one never falls back to another:
      reference: one gather for each of the four neighbours.
      blocked: for CPUs; a few queries at a time, so that their samples stay in the cache.
      quad: one gather a sample, of rows that hold the four neighbours.
      chunked: the same with little memory, a part of one head's queries at a time.
      ordered: for GPUs; as quad, with gradients that are summed in a fixed order.
      pallas_tpu: kernels with one head's maps in VMEM; None's choice where they fit.
      pallas_gpu: kernels by Pallas's Triton backend, which is deprecated; None never takes it.

    Args:
      value: the maps joined, finest first, each row by row; m heads of d channels.
      shapes: (h, w) of each map; Python numbers, which `jax.jit` must see as static.
      locations: (x, y) in [0, 1] of each map; anything is allowed.
      weights: of the samples; softmaxed over levels and points by the caller.
      implementation: a name from the list, or None, which chooses by platform and memory.
    """
    check(value, shapes, locations, weights)
    if implementation is not None and implementation not in IMPLEMENTATIONS:
        known = ", ".join(IMPLEMENTATIONS)
        raise ValueError(f"no implementation {implementation!r}; there are {known}")
    if locations.size == 0:
        b, q, *_ = locations.shape
        return jnp.zeros((b, q, value.shape[2] * value.shape[3]), value.dtype)
    shapes = tuple((h, w) for h, w in shapes)
    return _attend(value, shapes, locations, weights, implementation)


@partial(jax.jit, static_argnames=("shapes", "name"))
def _attend(value, shapes, locations, weights, name):
    # Compiled even when called outside of a jit, where each call would build its loops anew.
    if name == "reference":
        return reference(value, shapes, locations, weights)
    return partition.on_mesh(partial(_local, name), value, shapes, locations, weights)


def _local(name, value, shapes, locations, weights):
    """On the arrays of one device."""
    if name is not None:
        choice.require(name, value, shapes, locations)
        return IMPLEMENTATIONS[name](value, shapes, locations, weights)

    def chosen(value, locations, weights):
        name = choice.choose(value, shapes, locations)
        return IMPLEMENTATIONS[name](value, shapes, locations, weights)

    return by_platform(chosen, value, locations, weights)


def check(value, shapes, locations, weights) -> None:
    """Refuse arrays that do not fit together.

    Raises:
      ValueError: says which.
    """
    tokens = sum(h * w for h, w in shapes)
    if value.shape[1] != tokens:
        raise ValueError(f"maps of {shapes} have {tokens} tokens; value has {value.shape[1]}")
    if locations.shape[3] != len(shapes):
        raise ValueError(f"{len(shapes)} maps; locations are for {locations.shape[3]} levels")
    if locations.shape[:-1] != weights.shape:
        raise ValueError(
            f"locations {locations.shape} and weights {weights.shape} must agree in all but the "
            "last axis"
        )
    if (value.shape[0], value.shape[2]) != (locations.shape[0], locations.shape[2]):
        raise ValueError(
            f"value {value.shape} and locations {locations.shape} must have as many images and "
            "heads"
        )

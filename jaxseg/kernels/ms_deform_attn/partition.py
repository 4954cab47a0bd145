"""Splitting the operation over the ambient mesh by hand.

The compiler does not partition a kernel, and would gather what a loop over images and queries
cuts. No image and no head needs another, so each device works on its own alone.
"""

from collections.abc import Callable
from functools import partial
from math import prod

import jax
from jax.sharding import AxisType, PartitionSpec

from jaxseg.kernels.ms_deform_attn.reference import Shapes
from jaxseg.typing import Array, Float

# The axes of a mesh over which images, or heads, are split where their number allows it.
IMAGE_AXES = ("data", "fsdp")
HEAD_AXES = ("tensor",)


def on_mesh(
    attend: Callable[..., Array],
    value: Float[Array, "b n m d"],
    shapes: Shapes,
    locations: Float[Array, "b q m l p 2"],
    weights: Float[Array, "b q m l p"],
) -> Float[Array, "b q m*d"]:
    """`attend(value, shapes, locations, weights)` on each device's images and heads."""
    mesh = jax.sharding.get_abstract_mesh()
    # Within a `shard_map` of the caller's, its axes are split already.
    free = {
        axis: size
        for axis, size, kind in zip(mesh.axis_names, mesh.axis_sizes, mesh.axis_types, strict=True)
        if kind != AxisType.Manual
    }
    if prod(free.values()) == 1:
        return attend(value, shapes, locations, weights)
    b, _, m, _ = value.shape
    images, heads = _dividing(b, IMAGE_AXES, free), _dividing(m, HEAD_AXES, free)
    of_maps = PartitionSpec(images, None, heads)
    split = jax.shard_map(
        partial(_shapes_second, attend, shapes),
        in_specs=(of_maps, of_maps, of_maps),
        out_specs=PartitionSpec(images, None, heads),
        axis_names=set(free),
        check_vma=False,
    )
    return split(value, locations, weights)


def _shapes_second(attend, shapes, value, locations, weights):
    return attend(value, shapes, locations, weights)


def _dividing(count: int, axes: tuple[str, ...], sizes: dict[str, int]) -> tuple[str, ...]:
    """As many of the axes, the first ones first, as the count can be divided by."""
    chosen, parts = (), 1
    for axis in axes:
        if axis in sizes and count % (parts * sizes[axis]) == 0:
            chosen, parts = (*chosen, axis), parts * sizes[axis]
    return chosen

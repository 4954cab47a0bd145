"""The plain form of multi-scale deformable attention: the meaning, and the oracle of the others."""

import jax.numpy as jnp
from jax import lax

from jaxseg.typing import Array, Float

Shapes = tuple[tuple[int, int], ...]


def reference(
    value: Float[Array, "b n m d"],
    shapes: Shapes,
    locations: Float[Array, "b q m l p 2"],
    weights: Float[Array, "b q m l p"],
) -> Float[Array, "b q m*d"]:
    """Arguments and result as in `ms_deform_attn`; one gather for each of the four neighbours.

    Compiled for a CPU, it can miss in rare samples on the border of two cells: fusion computes
    `place` more than once, and with other roundings takes the corner of one cell and the share
    of the way from that of the next (barriers do not stop it). `blocked` is safe from that.
    """
    b, q, m, _, p, _ = locations.shape
    total, start = 0.0, 0
    for level, (height, width) in enumerate(shapes):
        table = value[:, start : start + height * width].swapaxes(1, 2)  # b m n d
        start += height * width
        size = jnp.array([width, height], jnp.float32)
        place = locations[:, :, :, level].astype(jnp.float32) * size - 0.5
        place = place.swapaxes(1, 2)  # b m q p 2
        low = jnp.floor(lax.stop_gradient(place))
        share = place - low
        corner = low.astype(jnp.int32)
        weight = weights[:, :, :, level].astype(jnp.float32).swapaxes(1, 2)
        for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
            x, y = corner[..., 0] + dx, corner[..., 1] + dy
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            part = jnp.where(dx, share[..., 0], 1 - share[..., 0])
            part *= jnp.where(dy, share[..., 1], 1 - share[..., 1])
            part = jnp.where(inside, part * weight, 0.0)
            index = jnp.clip(y, 0, height - 1) * width + jnp.clip(x, 0, width - 1)
            rows = jnp.take_along_axis(table, index.reshape(b, m, q * p, 1), axis=2)
            rows = rows.reshape(b, m, q, p, -1).astype(jnp.float32)
            total += jnp.einsum("bmqpd,bmqp->bmqd", rows, part)
    return total.swapaxes(1, 2).reshape(b, q, -1).astype(value.dtype)

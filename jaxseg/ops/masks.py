"""Masks: resizing as torch does it."""

import jax.numpy as jnp

from jaxseg.typing import Array, Float, Int, Shaped


def resize_bilinear(
    x: Float[Array, "*b H W"], size: tuple[int, int]
) -> Float[Array, "*b {size[0]} {size[1]}"]:
    """Bilinear, half-pixel centres, no antialiasing when shrinking.

    Written as two small matrix products, which is what accelerators like and what
    differentiates without a scatter.
    """
    rows = bilinear_matrix(x.shape[-2], size[0])
    columns = bilinear_matrix(x.shape[-1], size[1])
    return jnp.einsum("ih,...hw,jw->...ij", rows, x, columns)


def bilinear_matrix(old: int, new: int) -> Float[Array, "{new} {old}"]:
    """What turns a line of `old` values into one of `new`; at most two neighbours count."""
    centre = (jnp.arange(new, dtype=jnp.float32) + 0.5) * jnp.float32(old / new) - 0.5
    centre = jnp.maximum(centre, 0.0)
    low = jnp.minimum(jnp.floor(centre).astype(jnp.int32), old - 1)
    high = jnp.minimum(low + 1, old - 1)
    share = centre - low
    source = jnp.arange(old)
    at_low = (source == low[:, None]) * (1 - share)[:, None]
    return at_low + (source == high[:, None]) * share[:, None]


def resize_nearest(
    x: Shaped[Array, "*b H W"], size: tuple[int, int]
) -> Shaped[Array, "*b {size[0]} {size[1]}"]:
    """Nearest neighbour: row i reads row floor(i · H / new height)."""
    rows = nearest_index(x.shape[-2], size[0])
    columns = nearest_index(x.shape[-1], size[1])
    return x[..., rows, :][..., columns]


def nearest_index(old: int, new: int) -> Int[Array, " {new}"]:
    """Source index of each of `new` positions, with torch's float32 scale."""
    source = jnp.arange(new, dtype=jnp.float32) * jnp.float32(old / new)
    return jnp.minimum(jnp.floor(source).astype(jnp.int32), old - 1)

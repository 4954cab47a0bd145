"""Masks: resizing as torch does it, and what automatic masks are judged by."""

import jax.numpy as jnp

from jaxseg.typing import Array, Bool, Float, Int, Shaped


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


def stability_score(
    logits: Float[Array, "*b h w"], threshold: float, offset: float
) -> Float[Array, "*b"]:
    """How little of a mask depends on where it is cut off (arXiv 2304.02643, section B).

    The pixels above threshold + offset over those above threshold − offset, which is their
    intersection over union; NaN where both are empty.
    """
    inner, outer = (
        (logits > threshold + shift).sum((-2, -1), dtype=jnp.int32) for shift in (offset, -offset)
    )
    return inner / outer


def masks_to_boxes(masks: Bool[Array, "*b h w"]) -> Int[Array, "*b 4"]:
    """The first column and row and the last ones of masks, as xyxy; zeros for an empty mask."""
    spans = [_span(masks.any(axis)) for axis in (-2, -1)]
    (left, right), (top, bottom) = spans
    return jnp.stack([left, top, right, bottom], -1)


def _span(line: Bool[Array, "*b n"]) -> tuple[Int[Array, "*b"], Int[Array, "*b"]]:
    """First and last true place; zeros where none is."""
    first = line.argmax(-1).astype(jnp.int32)
    last = line.shape[-1] - 1 - line[..., ::-1].argmax(-1).astype(jnp.int32)
    return first, jnp.where(line.any(-1), last, 0)

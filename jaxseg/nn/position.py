"""Two-dimensional position embeddings of feature maps (DETR, arXiv 2005.12872, appendix A.4)."""

import math

import jax.numpy as jnp
from flax import linen as nn

from jaxseg.typing import Array, Bool, DTypeLike, Float


class SinePosition(nn.Module):
    """Sines and cosines of each position's share of the image's own extent.

    Rows and columns are counted from 1 over real positions (minus `offset`: Deformable DETR
    takes a half off), divided by the last count, and multiplied by `scale`. The first half
    of the channels belongs to y, the second to x; sine and cosine alternate.
    """

    features: int = 256
    temperature: tuple[float, float] = (10000.0, 10000.0)
    offset: float = 0.0
    scale: float = 2 * math.pi
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, mask: Bool[Array, "b h w"]) -> Float[Array, "b h w {self.features}"]:
        real = mask.astype(jnp.float32)
        per_axis = self.features // 2
        halves = []
        for axis, temperature in zip((1, 2), self.temperature, strict=True):
            count = jnp.cumsum(real, axis=axis)
            last = jnp.take(count, jnp.array([-1]), axis=axis)
            share = (count + self.offset) / (last + self.epsilon) * self.scale
            halves.append(sine_embedding(share, per_axis, temperature))
        return jnp.concatenate(halves, -1)


class LearnedPosition(nn.Module):
    """A learnt vector for each of the first 50 rows and columns; x first, padding ignored."""

    features: int = 256
    rows: int = 50
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, mask: Bool[Array, "b h w"]) -> Float[Array, "b h w {self.features}"]:
        b, h, w = mask.shape
        if max(h, w) > self.rows:
            raise ValueError(
                f"a learnt position embedding covers maps of at most {self.rows} × {self.rows}; "
                f"got {h} × {w}: use smaller images or the sine embedding"
            )
        half = self.features // 2
        options = {
            "embedding_init": nn.initializers.uniform(1.0),
            "dtype": jnp.float32,
            "param_dtype": self.param_dtype,
        }
        row = nn.Embed(self.rows, half, name="row_embed", **options)(jnp.arange(h))
        column = nn.Embed(self.rows, half, name="col_embed", **options)(jnp.arange(w))
        grid = (b, h, w, half)
        return jnp.concatenate(
            [
                jnp.broadcast_to(column[None, None, :, :], grid),
                jnp.broadcast_to(row[None, :, None, :], grid),
            ],
            -1,
        )


def sine_embedding(
    x: Float[Array, "*b"], features: int, temperature: float = 10000.0
) -> Float[Array, "*b {features}"]:
    """Interleaved sin and cos of x / temperature^(2·floor(k/2) / features), in float32."""
    k = jnp.arange(features)
    frequency = temperature ** (2 * (k // 2).astype(jnp.float32) / features)
    angle = x.astype(jnp.float32)[..., None] / frequency
    return jnp.where(k % 2 == 0, jnp.sin(angle), jnp.cos(angle))


def box_sine_embedding(
    boxes: Float[Array, "*b r"], features: int, *, y_first: bool
) -> Float[Array, "*b {features}*r"]:
    """`sine_embedding` of 2π times each coordinate, joined, `features` numbers each.

    Args:
      boxes: (cx, cy) or (cx, cy, w, h) in [0, 1].
      y_first: the order y, x, w, h that DAB-DETR and its successors have; else x, y, w, h.
    """
    if y_first:
        boxes = jnp.concatenate([boxes[..., 1::-1], boxes[..., 2:]], -1)
    sines = sine_embedding(2 * math.pi * boxes.astype(jnp.float32), features)
    return sines.reshape(*boxes.shape[:-1], -1)

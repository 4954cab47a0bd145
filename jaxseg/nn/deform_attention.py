"""Multi-scale deformable attention as a layer (Deformable DETR, arXiv 2010.04159, section 4.1)."""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxseg.kernels.ms_deform_attn import Implementation, Shapes, ms_deform_attn
from jaxseg.nn.initializers import xavier_uniform
from jaxseg.typing import Array, Bool, DTypeLike, Float


class MSDeformAttention(nn.Module):
    """Each query reads a few samples of every level around its reference.

    Attributes:
      num_heads: must divide the width of the query.
      num_points: samples a head and level.
      implementation: of the sampling, see `kernels.ms_deform_attn`.
    """

    num_heads: int = 8
    num_points: int = 4
    implementation: Implementation | None = None
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        query: Float[Array, "b q d"],
        reference: Float[Array, "b q l _r"],
        memory: Float[Array, "b n d"],
        shapes: Shapes,
        mask: Bool[Array, "b n"],
    ) -> Float[Array, "b q d"]:
        """Sample `memory` around references.

        Args:
          query: content and position.
          reference: (x, y), or (cx, cy, w, h), in [0, 1] of the canvas of each level. Offsets
            count in cells around a point, and in halves of the size around a box.
          memory: all levels joined, finest first.
          shapes: (h, w) of each level.
          mask: True on real tokens; the others' values are zero.
        """
        b, q, width = query.shape
        heads, levels, points = self.num_heads, len(shapes), self.num_points
        if width % heads:
            raise ValueError(
                f"the attention width must be a multiple of the number of heads; got width "
                f"{width} and {heads} heads"
            )
        dense, zeros = self._dense, nn.initializers.zeros
        value = dense("value_proj", width, xavier_uniform)(memory)
        # After the projection, or its bias would stand on padding.
        value = jnp.where(mask[..., None], value, 0).reshape(b, -1, heads, width // heads)

        samples = heads * levels * points
        directions = _directions(heads, levels, points)
        # In float32: rounded to bfloat16, four cells away would be known to a 64th of a cell.
        offsets = dense("sampling_offsets", 2 * samples, zeros, directions, jnp.float32)(query)
        offsets = offsets.reshape(b, q, heads, levels, points, 2)
        scores = dense("attention_weights", samples, zeros)(query).astype(jnp.float32)
        weights = jax.nn.softmax(scores.reshape(b, q, heads, levels * points))
        weights = weights.reshape(b, q, heads, levels, points)

        locations = sampling_locations(reference, offsets, shapes)
        mixed = ms_deform_attn(
            value, shapes, locations, weights, implementation=self.implementation
        )
        return dense("output_proj", width, xavier_uniform)(mixed)

    def _dense(self, name, features, kernel_init, bias_init=nn.initializers.zeros, dtype=None):
        return nn.Dense(
            features,
            kernel_init=kernel_init,
            bias_init=bias_init,
            dtype=dtype or self.dtype,
            param_dtype=self.param_dtype,
            name=name,
        )


def sampling_locations(
    reference: Float[Array, "b q l _r"],
    offsets: Float[Array, "b q m l p 2"],
    shapes: Shapes,
) -> Float[Array, "b q m l p 2"]:
    """Where samples lie, in [0, 1] of each level's canvas, in float32."""
    reference = reference.astype(jnp.float32)[:, :, None, :, None]
    if reference.shape[-1] == 2:
        sizes = jnp.array([(w, h) for h, w in shapes], jnp.float32)
        return reference + offsets / sizes[:, None]
    points = offsets.shape[-2]
    return reference[..., :2] + offsets / points * reference[..., 2:] * 0.5


def _directions(heads: int, levels: int, points: int):
    """Initial offsets: head m looks along the angle 2πm/heads, point p is p + 1 cells away."""
    grid = []
    for head in range(heads):
        angle = 2 * math.pi * head / heads
        x, y = math.cos(angle), math.sin(angle)
        longer = max(abs(x), abs(y))
        away = [(x / longer * (p + 1), y / longer * (p + 1)) for p in range(points)]
        grid += away * levels

    def init(key, shape, dtype=jnp.float32):
        del key
        return jnp.asarray(grid, dtype).reshape(shape)

    return init

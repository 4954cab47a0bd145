"""The encoder of Deformable DETR (arXiv 2010.04159, section 4.2)."""

from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn

from jaxseg.kernels.ms_deform_attn import Implementation, Shapes
from jaxseg.models.detr.encoder import feed_forward, residual
from jaxseg.nn.deform_attention import MSDeformAttention
from jaxseg.typing import Array, Bool, DTypeLike, Float

# What a stack hands on to each of its layers.
LAYER_FIELDS = (
    "num_heads",
    "num_points",
    "feedforward",
    "dropout",
    "activation",
    "implementation",
    "dtype",
    "param_dtype",
)


class DeformableEncoderLayer(nn.Module):
    """Deformable self-attention over all levels, then the feed-forward pair."""

    num_heads: int = 8
    num_points: int = 4
    feedforward: int = 1024
    dropout: float = 0.1
    activation: Callable = nn.relu
    implementation: Implementation | None = None
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    pre_norm = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        position: Float[Array, "b n d"],
        reference: Float[Array, "b n l 2"],
        shapes: Shapes,
        mask: Bool[Array, "b n"],
        train: bool = False,
    ) -> Float[Array, "b n d"]:
        def attend(x):
            attention = MSDeformAttention(
                self.num_heads,
                self.num_points,
                self.implementation,
                self.dtype,
                self.param_dtype,
                name="self_attn",
            )
            return attention(x + position.astype(x.dtype), reference, x, shapes, mask)

        x = residual(self, x, attend, "norm1", train)
        return residual(self, x, lambda x: feed_forward(self, x, train), "norm2", train)


class DeformableEncoder(nn.Module):
    """A stack of `DeformableEncoderLayer`, without a norm at its end."""

    num_layers: int = 6
    num_heads: int = 8
    num_points: int = 4
    feedforward: int = 1024
    dropout: float = 0.1
    activation: Callable = nn.relu
    implementation: Implementation | None = None
    remat: bool = False
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        position: Float[Array, "b n d"],
        reference: Float[Array, "b n l 2"],
        shapes: Shapes,
        mask: Bool[Array, "b n"],
        train: bool = False,
    ) -> Float[Array, "b n d"]:
        """Encode tokens that look from `reference` (see `levels.cell_centres`)."""
        layer = DeformableEncoderLayer
        if self.remat:
            layer = nn.remat(layer, static_argnums=(4, 6))
        fields = {f: getattr(self, f) for f in LAYER_FIELDS}
        for i in range(self.num_layers):
            x = layer(**fields, name=f"layer_{i}")(x, position, reference, shapes, mask, train)
        return x

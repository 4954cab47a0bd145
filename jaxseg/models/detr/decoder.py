"""The dense transformer decoder of DETR (arXiv 2005.12872, section 3.2 and appendix A.3)."""

from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn

from jaxseg.models.detr.encoder import LAYER_FIELDS, feed_forward, residual
from jaxseg.nn.attention import MultiHeadAttention
from jaxseg.nn.layers import layer_norm
from jaxseg.typing import Array, Bool, DTypeLike, Float


class DecoderLayer(nn.Module):
    """Self-attention among queries, cross-attention to the memory, feed-forward pair.

    The query embedding is added to queries and keys of the first and to queries of the
    second; the position embedding to keys of the second; values carry neither.
    """

    num_heads: int = 8
    feedforward: int = 2048
    dropout: float = 0.1
    activation: Callable = nn.relu
    pre_norm: bool = False
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b q d"],
        query: Float[Array, "b q d"],
        memory: Float[Array, "b n d"],
        position: Float[Array, "b n d"],
        mask: Bool[Array, "b n"],
        train: bool = False,
    ) -> Float[Array, "b q d"]:
        def attention(name):
            return MultiHeadAttention(
                self.num_heads, self.dropout, self.dtype, self.param_dtype, name=name
            )

        def attend_queries(x):
            placed = x + query.astype(x.dtype)
            return attention("self_attn")(placed, placed, x, train=train)

        def attend_memory(x):
            placed, keys = x + query.astype(x.dtype), memory + position.astype(memory.dtype)
            return attention("cross_attn")(placed, keys, memory, key_mask=mask, train=train)

        x = residual(self, x, attend_queries, "norm1", train)
        x = residual(self, x, attend_memory, "norm2", train)
        return residual(self, x, lambda x: feed_forward(self, x, train), "norm3", train)


class Decoder(nn.Module):
    """A stack of `DecoderLayer`; one shared norm reads out every layer and is not passed on."""

    num_layers: int = 6
    num_heads: int = 8
    feedforward: int = 2048
    dropout: float = 0.1
    activation: Callable = nn.relu
    pre_norm: bool = False
    remat: bool = False
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        query: Float[Array, "b q d"],
        memory: Float[Array, "b n d"],
        position: Float[Array, "b n d"],
        mask: Bool[Array, "b n"],
        train: bool = False,
    ) -> Float[Array, "l b q d"]:
        """Decode from content that starts at zero; returns the normed state of every layer."""
        layer = nn.remat(DecoderLayer, static_argnums=(6,)) if self.remat else DecoderLayer
        fields = {f: getattr(self, f) for f in LAYER_FIELDS}
        norm = layer_norm("norm", dtype=self.dtype, param_dtype=self.param_dtype)
        x, states = jnp.zeros_like(query, dtype=self.dtype), []
        for i in range(self.num_layers):
            x = layer(**fields, name=f"layer_{i}")(x, query, memory, position, mask, train)
            states.append(norm(x))
        return jnp.stack(states)

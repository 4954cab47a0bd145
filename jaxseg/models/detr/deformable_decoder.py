"""The decoder of Deformable DETR (arXiv 2010.04159, section 4.2) and of what grew from it."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxseg.kernels.ms_deform_attn import Implementation, Shapes
from jaxseg.models.detr.deformable_encoder import LAYER_FIELDS
from jaxseg.models.detr.encoder import feed_forward, residual
from jaxseg.models.detr.levels import Encoded
from jaxseg.nn.attention import MultiHeadAttention
from jaxseg.nn.deform_attention import MSDeformAttention
from jaxseg.nn.initializers import xavier_uniform
from jaxseg.nn.layers import Mlp, layer_norm
from jaxseg.nn.position import box_sine_embedding
from jaxseg.typing import Array, Bool, DTypeLike, Float


class DeformableDecoderLayer(nn.Module):
    """Self-attention among queries, deformable attention to the memory, feed-forward pair.

    The norms are numbered as in the original, where the first one comes second.
    """

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
        x: Float[Array, "b q d"],
        query: Float[Array, "b q d"],
        reference: Float[Array, "b q l _r"],
        memory: Float[Array, "b n d"],
        shapes: Shapes,
        mask: Bool[Array, "b n"],
        attention_mask: Bool[Array, "b q q"] | None = None,
        train: bool = False,
        *context: Array,
    ) -> Float[Array, "b q d"]:
        """One layer; `attention_mask` is True where queries may see each other."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}

        def attend_queries(x):
            attention = MultiHeadAttention(self.num_heads, self.dropout, **dtypes, name="self_attn")
            placed = x + query.astype(x.dtype)
            return attention(placed, placed, x, attention_mask=attention_mask, train=train)

        def attend_memory(x):
            attention = MSDeformAttention(
                self.num_heads, self.num_points, self.implementation, **dtypes, name="cross_attn"
            )
            return attention(x + query.astype(x.dtype), reference, memory, shapes, mask)

        x = residual(self, x, attend_queries, "norm2", train)
        x = self.read(x, query, train, *context)
        x = residual(self, x, attend_memory, "norm1", train)
        return residual(self, x, lambda x: feed_forward(self, x, train), "norm3", train)

    def read(
        self, x: Float[Array, "b q d"], query: Float[Array, "b q d"], train: bool, *context: Array
    ) -> Float[Array, "b q d"]:
        """What else a layer reads before the memory; this one nothing."""
        del query, train, context
        return x


class ReferencePosition(nn.Module):
    """A query's position from its reference box (DAB-DETR, arXiv 2201.12329, section 4.2).

    Attributes:
      scaled: multiply by what `query_scale` makes of the content, after the first layer.
    """

    width: int = 256
    scaled: bool = False
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, reference: Float[Array, "*b 4"], x: Float[Array, "*b d"], first: bool
    ) -> Float[Array, "*b d"]:
        def mlp(name):
            return Mlp(
                (self.width, self.width),
                self.dtype,
                self.param_dtype,
                kernel_init=xavier_uniform,
                name=name,
            )

        sines = box_sine_embedding(reference, self.width // 2, y_first=True)
        position = mlp("ref_point_head")(sines)
        if not self.scaled:
            return position
        scale = mlp("query_scale")(x)  # parameters exist even where one layer does not use them
        return position if first else position * scale


class Decoded(NamedTuple):
    """States of all layers with the references that they start from and lead to.

    Attributes:
      states: after the final norm, if there is one.
      references: (x, y) or (cx, cy, w, h) that enter each layer; no gradient after the first.
      updates: what `refine` made of them, with its gradient; None without it.
    """

    states: Float[Array, "l b q d"]
    references: tuple[Float[Array, "b q _r"], ...]
    updates: Float[Array, "l b q 4"] | None


class DeformableDecoder(nn.Module):
    """A stack of `DeformableDecoderLayer`.

    Attributes:
      layer: the kind of its layers, which `context` is handed on to.
      final_norm: one norm reads out every layer and is not passed on.
      query_position: makes query positions of references, layer by layer; without it they are
        an argument and stay.
    """

    num_layers: int = 6
    layer: type[DeformableDecoderLayer] = DeformableDecoderLayer
    num_heads: int = 8
    num_points: int = 4
    feedforward: int = 1024
    dropout: float = 0.1
    activation: Callable = nn.relu
    implementation: Implementation | None = None
    final_norm: bool = False
    query_position: nn.Module | None = None
    remat: bool = False
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b q d"],
        reference: Float[Array, "b q _r"],
        encoded: Encoded,
        *,
        query: Float[Array, "b q d"] | None = None,
        sine_ratio: Float[Array, "b 2"] | None = None,
        refine: Callable | None = None,
        attention_mask: Bool[Array, "b q q"] | None = None,
        context: tuple[Array, ...] = (),
        train: bool = False,
    ) -> Decoded:
        """Decode.

        Args:
          reference: of the first layer, in [0, 1] of the real image.
          query: position of the queries, where no part makes it.
          sine_ratio: what references are multiplied by before their sines are taken.
          refine: (layer, state before the norm, reference) → next reference; the next layer
            gets it without gradient.
          attention_mask: True where queries may see each other.
          context: what the layers read beside the memory.
        """
        layer = self.layer
        if self.remat:
            layer = nn.remat(layer, static_argnums=(5, 8))
        fields = {f: getattr(self, f) for f in LAYER_FIELDS}
        norm = lambda x: x  # noqa: E731
        if self.final_norm:
            norm = layer_norm("norm", dtype=self.dtype, param_dtype=self.param_dtype)
        ratios = encoded.valid_ratios
        states, references, updates = [], [], []
        for i in range(self.num_layers):
            if self.query_position is not None:
                scaled = _scale(reference, sine_ratio)
                query = self.query_position(scaled, x, first=i == 0)
            placed = _scale(reference[:, :, None], ratios[:, None])
            x = layer(**fields, name=f"layer_{i}")(
                x,
                query,
                placed,
                encoded.memory,
                encoded.shapes,
                encoded.mask,
                attention_mask,
                train,
                *context,
            )
            states.append(norm(x))
            references.append(reference)
            if refine is not None:
                updates.append(refine(i, x, reference))
                reference = jax.lax.stop_gradient(updates[-1])
        return Decoded(
            jnp.stack(states), tuple(references), jnp.stack(updates) if updates else None
        )


def _scale(reference, ratio):
    """(x, y) or (cx, cy, w, h) times (width, height); `ratio` (b, 2) or (b, 1, l, 2)."""
    if ratio is None:
        return reference
    ratio = ratio[:, None] if ratio.ndim == 2 else ratio
    return reference * jnp.tile(ratio, reference.shape[-1] // 2)

"""DETR's mask head: a mask for every query of a detector (arXiv 2005.12872, section 4.4).

maps  = bbox_attention(last decoder states, memory)      where each query looks, head by head
masks = mask_head(projected features, maps, finer features)    a small feature pyramid

The letters are those of `typing`; g stands for an attention head.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from jaxseg.nn.attention import MASKED
from jaxseg.nn.initializers import xavier_uniform
from jaxseg.nn.layers import Conv, GroupNorm, zero_padding
from jaxseg.ops.masks import resize_nearest
from jaxseg.typing import Array, Bool, DTypeLike, Float

# Kaiming-uniform with torch's a = 1: the bound is sqrt(3 / fan_in).
kaiming_uniform = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")

Mask = Bool[Array, "b _h _w"] | None


class AttentionMaps(nn.Module):
    """Attention weights of queries over the memory, one map a head, without values.

    The softmax runs over heads and positions jointly: a query's maps add up to one.
    """

    num_heads: int = 8
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        states: Float[Array, "b q d"],
        memory: Float[Array, "b n d"],
        mask: Bool[Array, "b n"],
    ) -> Float[Array, "b q n {self.num_heads}"]:
        """Maps in float32, zero where `mask` is False."""
        b, q, width = states.shape
        head_dim = width // self.num_heads

        def heads(name, x):
            options = {"dtype": self.dtype, "param_dtype": self.param_dtype, "name": name}
            y = nn.Dense(width, kernel_init=xavier_uniform, **options)(x)
            return y.reshape(b, -1, self.num_heads, head_dim)

        query = heads("q_linear", states) * head_dim**-0.5
        scores = jnp.einsum("bqgd,bngd->bqng", query, heads("k_linear", memory))
        scores = jnp.where(mask[:, None, :, None], scores.astype(jnp.float32), MASKED)
        return jax.nn.softmax(scores.reshape(b, q, -1)).reshape(scores.shape)


class MaskHead(nn.Module):
    """Mask logits at stride 4 from the attention maps and features of falling stride.

    Attributes:
      width: of the transformer; the pyramid's levels have a half to a sixteenth of it.
      queries_at_once: None computes all masks together. A number that divides the queries
        computes so many at a time, and again in the backward pass, to save memory.
    """

    width: int = 256
    queries_at_once: int | None = None
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        projected: Float[Array, "b h w d"],
        maps: Float[Array, "b q h w g"],
        finer: Sequence[Float[Array, "b _h _w _c"]],
        masks: Sequence[Mask],
    ) -> Float[Array, "b q _h _w"]:
        """Masks of the finest features' size, in float32.

        Args:
          projected: features of the coarsest stage as the encoder receives them.
          maps: of `AttentionMaps`.
          finer: features of the three finer stages, coarse to fine.
          masks: for `projected` and each of `finer` its real positions, for a canvas-exact
            result; None lets padding be content, as in the original.
        """
        b, q = maps.shape[:2]
        adapted = [
            self._conv(self.width // 2**level, f"adapter{level}", 1)(x)
            for level, x in enumerate(finer, 1)
        ]
        projected = zero_padding(projected.astype(self.dtype), masks[0])

        def draw(head, carry, maps):
            return carry, head._draw(projected, maps, adapted, masks)

        at_once = self.queries_at_once
        if at_once is None:
            return draw(self, None, maps)[1]
        if q % at_once:
            raise ValueError(f"queries_at_once must divide the {q} queries; got {at_once}")
        chunks = maps.reshape(b, q // at_once, at_once, *maps.shape[2:])
        broadcast = {"variable_broadcast": "params", "split_rngs": {"params": False}}
        each = nn.scan(nn.remat(draw), in_axes=1, out_axes=1, **broadcast)
        drawn = each(self, None, chunks)[1]
        return drawn.reshape(b, q, *drawn.shape[3:])

    def _draw(self, projected, maps, adapted, masks) -> Float[Array, "b q _h _w"]:
        """The masks of some queries, each on its own from here on: images × queries is one axis."""
        b, q, *size, heads = maps.shape
        flat = maps.astype(self.dtype).reshape(b * q, *size, heads)
        channels = projected.shape[-1] + heads
        x = PairConv(channels, self.dtype, self.param_dtype, name="conv1")(projected, flat)
        x = self._normed(x, masks[0], "norm1")
        x = self._conv(self.width // 2, "conv2")(x)
        x = self._normed(x, masks[0], "norm2")
        for level, (feature, mask) in enumerate(zip(adapted, masks[1:], strict=True), 1):
            x = _upsample(x, feature.shape[1:3]) + jnp.repeat(feature, q, 0)
            x = zero_padding(x, _repeat(mask, q))
            x = self._conv(self.width // 2 ** (level + 1), f"conv{level + 2}")(x)
            x = self._normed(x, mask, f"norm{level + 2}")
        logits = self._conv(1, "out_conv")(x)
        return logits.reshape(b, q, *logits.shape[1:3]).astype(jnp.float32)

    def _conv(self, features: int, name: str, kernel: int = 3) -> Conv:
        options = {"dtype": self.dtype, "param_dtype": self.param_dtype, "name": name}
        return Conv(features, kernel, use_bias=True, kernel_init=kaiming_uniform, **options)

    def _normed(self, x, mask: Mask, name: str):
        """Group norm over each image's real positions, ReLU, and zero outside them."""
        options = {"dtype": self.dtype, "param_dtype": self.param_dtype, "name": name}
        # Narrow levels have groups of one channel, as in the original.
        norm = GroupNorm(8, least=1, **options)
        mask = _repeat(mask, len(x) // len(mask)) if mask is not None else None
        return zero_padding(nn.relu(norm(x, mask)), mask)


class PairConv(nn.Module):
    """A 3×3 convolution of shared channels beside each query's own.

    The sum over input channels falls apart in two: what all queries of an image share is
    convolved once. With few own channels that saves nearly the whole layer.
    """

    features: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, shared: Float[Array, "b h w c"], own: Float[Array, "m h w g"]
    ) -> Float[Array, "m h w {self.features}"]:
        """`own` holds m / b neighbours for each image of `shared`."""
        split = shared.shape[-1]
        shape = (3, 3, split + own.shape[-1], self.features)
        kernel = self.param("kernel", kaiming_uniform, shape, self.param_dtype).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype)
        common = _conv3(shared, kernel[:, :, :split]) + bias.astype(self.dtype)
        return jnp.repeat(common, len(own) // len(shared), 0) + _conv3(own, kernel[:, :, split:])


def _conv3(x, kernel):
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (1, 1), [(1, 1), (1, 1)], dimension_numbers=layout)


def _upsample(x: Float[Array, "m h w c"], size: Sequence[int]) -> Float[Array, "m _h _w c"]:
    """Nearest neighbour; on an exact canvas the same within an image as without the canvas."""
    return jnp.moveaxis(resize_nearest(jnp.moveaxis(x, -1, 1), tuple(size)), 1, -1)


def _repeat(mask: Mask, times: int) -> Bool[Array, "m _h _w"] | None:
    return None if mask is None else jnp.repeat(mask, times, 0)

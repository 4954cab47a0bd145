"""The parts of a Swin Transformer (arXiv 2103.14030, section 3): attention, block, merging."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxseg.nn.layers import layer_norm, zero_padding
from jaxseg.nn.vision import DropPath, GeluMlp, dense, narrow_normal
from jaxseg.ops.windows import from_windows, pad_to_multiple, relative_position_index, to_windows
from jaxseg.typing import Array, Bool, DTypeLike, Float, Int

# What the originals add to scores between tokens that only the shift brought together.
APART = -100.0


class WindowAttention(nn.Module):
    """Self-attention within windows, with a learnt bias for every offset (section 3.2)."""

    num_heads: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, windows: Float[Array, "b n w w d"], regions: Int[Array, "_b n _t"] | None = None
    ) -> Float[Array, "b n w w d"]:
        """Attend; with `regions` (one row, or one an image) only to tokens of the same label."""
        b, n, side, _, width = windows.shape
        heads = (b, n, side * side, self.num_heads, width // self.num_heads)
        dtypes = (self.dtype, self.param_dtype)
        q, k, v = (dense(width, f"{p}_proj", *dtypes)(windows).reshape(heads) for p in "qkv")
        table = self.param(
            "relative_position_bias_table",
            narrow_normal,
            ((2 * side - 1) ** 2, self.num_heads),
            self.param_dtype,
        )
        bias = table[relative_position_index(side)].astype(jnp.float32)  # q t m
        scores = jnp.einsum("bnqmd,bntmd->bnmqt", q * heads[-1] ** -0.5, k)
        scores = scores.astype(jnp.float32) + jnp.moveaxis(bias, -1, 0)
        if regions is not None:
            apart = regions[:, :, :, None] != regions[:, :, None, :]
            scores += jnp.where(apart, APART, 0.0)[:, :, None]
        weights = jax.nn.softmax(scores).astype(self.dtype)
        mixed = jnp.einsum("bnmqt,bntmd->bnqmd", weights, v).reshape(windows.shape)
        return dense(width, "out_proj", *dtypes)(mixed)


class Block(nn.Module):
    """Windowed attention and a perceptron, each normalised before and added to its input."""

    num_heads: int
    window: int
    shift: int = 0
    mlp_ratio: float = 4.0
    drop_path: float = 0.0
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w d"],
        mask: Bool[Array, "b h w"] | None,
        regions: Int[Array, "_b n _t"] | None,
        train: bool = False,
    ) -> Float[Array, "b h w d"]:
        """Transform a map; `regions` only where windows shift."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        # What fills up windows is zero after the norm, and attended like any other token: its
        # keys and values are the biases. So must be what lies outside an image.
        y = zero_padding(layer_norm("norm1", **dtypes)(x), mask)
        windows = to_windows(y, self.window, self.shift)
        windows = WindowAttention(self.num_heads, **dtypes, name="attn")(windows, regions)
        y = from_windows(windows, *x.shape[1:3], self.shift)
        x = x + DropPath(self.drop_path)(y, train=train)
        y = layer_norm("norm2", **dtypes)(x)
        y = GeluMlp(int(self.mlp_ratio * x.shape[-1]), **dtypes, name="mlp")(y)
        return x + DropPath(self.drop_path)(y, train=train)


class PatchMerging(nn.Module):
    """Each 2×2 neighbours to one token of twice the channels; odd maps end in zeros."""

    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _h _w 2*c"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        width = 2 * x.shape[-1]
        x = pad_to_multiple(x, 2)
        # down the first column, then down the second: the order of the checkpoints
        corners = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        x = layer_norm("norm", **dtypes)(jnp.concatenate(corners, -1))
        return dense(width, "reduction", **dtypes, use_bias=False)(x)

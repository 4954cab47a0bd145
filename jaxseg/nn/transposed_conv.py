"""Twofold upsampling by a learnt 2×2 patch for each position."""

from collections.abc import Callable
from math import prod

import jax.numpy as jnp
from flax import linen as nn

from jaxseg.nn.initializers import torch_bias
from jaxseg.typing import Array, DTypeLike, Float

# torch counts 2 · 2 · out as the fan-in of a transposed convolution, not its inputs.
_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform", in_axis=-2, out_axis=-1)


class TransposedConv(nn.Module):
    """A transposed convolution of kernel 2 and stride 2, whose patches do not overlap.

    The kernel is (row, column, out, in): out[2y + i, 2x + j] = in[y, x] · kernel[i, j]ᵀ + bias.

    Attributes:
      patches: leave the result as (…, i, j, out), of which no value has to move.
    """

    features: int
    kernel_init: Callable = _init
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    patches: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w *p c"]) -> Float[Array, "b _h _w *q {self.features}"]:
        c = x.shape[-1]
        shape = (2, 2, self.features, c)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        bias_init = torch_bias(4 * self.features)
        bias = self.param("bias", bias_init, (self.features,), self.param_dtype)
        y = jnp.einsum("...c,ijoc->...ijo", x.astype(self.dtype), kernel.astype(self.dtype))
        y += bias.astype(self.dtype)
        return y if self.patches else in_order(y)


def in_order(patches: Float[Array, "b h w *p c"]) -> Float[Array, "b _h _w c"]:
    """The map of patches (…, i, j, c), or of patches of patches."""
    b, h, w, *sides, c = patches.shape
    axes = range(1, 3 + len(sides))
    y = patches.transpose(0, *axes[::2], *axes[1::2], len(sides) + 3)
    return y.reshape(b, h * prod(sides[::2]), w * prod(sides[1::2]), c)

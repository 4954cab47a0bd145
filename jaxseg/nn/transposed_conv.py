"""Twofold upsampling by a learnt 2×2 patch for each position."""

from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn

from jaxseg.nn.initializers import torch_bias
from jaxseg.typing import Array, DTypeLike, Float

# torch counts 2 · 2 · out as the fan-in of a transposed convolution, not its inputs.
_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform", in_axis=-2, out_axis=-1)


class TransposedConv(nn.Module):
    """A transposed convolution of kernel 2 and stride 2, whose patches do not overlap.

    The kernel is (row, column, out, in): out[2y + i, 2x + j] = in[y, x] · kernel[i, j]ᵀ + bias.
    """

    features: int
    kernel_init: Callable = _init
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b 2*h 2*w {self.features}"]:
        b, h, w, c = x.shape
        shape = (2, 2, self.features, c)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        bias_init = torch_bias(4 * self.features)
        bias = self.param("bias", bias_init, (self.features,), self.param_dtype)
        y = jnp.einsum("bhwc,ijoc->bhiwjo", x.astype(self.dtype), kernel.astype(self.dtype))
        return y.reshape(b, 2 * h, 2 * w, self.features) + bias.astype(self.dtype)

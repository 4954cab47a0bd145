"""What vision transformers share (ViT, arXiv 2010.11929): patches, perceptron, stochastic depth."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxseg.nn.initializers import torch_bias, torch_uniform
from jaxseg.ops.windows import pad_to_multiple
from jaxseg.typing import Array, DTypeLike, Float

narrow_normal = nn.initializers.normal(0.02)


class PatchEmbed(nn.Module):
    """A linear map of each patch of `size` × `size` pixels: a convolution of that stride.

    Images are filled up with zeros at the bottom and right to whole patches.
    """

    features: int
    size: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _h _w {self.features}"]:
        size, channels = self.size, x.shape[-1]
        shape = (size, size, channels, self.features)
        kernel = self.param("kernel", torch_uniform, shape, self.param_dtype)
        bias_init = torch_bias(size * size * channels)
        bias = self.param("bias", bias_init, (self.features,), self.param_dtype)
        x = pad_to_multiple(x, size)
        b, h, w, _ = x.shape
        x = x.reshape(b, h // size, size, w // size, size, channels).astype(self.dtype)
        # Patches do not overlap, so a matrix product says it all, and is faster.
        y = jnp.einsum("bhiwjc,ijcd->bhwd", x, kernel.astype(self.dtype))
        return y + bias.astype(self.dtype)


class GeluMlp(nn.Module):
    """`linear1` to `width`, the exact GELU, `linear2` back."""

    width: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        y = dense(self.width, "linear1", self.dtype, self.param_dtype)(x)
        y = nn.gelu(y, approximate=False)  # torch's; Linen's default is the tanh form
        return dense(x.shape[-1], "linear2", self.dtype, self.param_dtype)(y)


def dense(
    features: int, name: str, dtype: DTypeLike, param_dtype: DTypeLike, use_bias: bool = True
) -> nn.Dense:
    """A linear layer that starts as vision transformers' do: N(0, 0.02²), bias zero."""
    return nn.Dense(
        features,
        use_bias=use_bias,
        kernel_init=narrow_normal,
        dtype=dtype,
        param_dtype=param_dtype,
        name=name,
    )


class DropPath(nn.Module):
    """Leave out a residual branch for whole images (stochastic depth, arXiv 1603.09382).

    Branches that stay are divided by the probability of staying.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "b *n c"], *, train: bool) -> Float[Array, "b *n c"]:
        """Drop where `train` (rng "dropout")."""
        if not 0 <= self.rate < 1:
            raise ValueError(f"a drop path rate is in [0, 1); got {self.rate}")
        if not train or self.rate == 0:
            return x
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        kept = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.rate, shape)
        return jnp.where(kept, x / (1 - self.rate), 0).astype(x.dtype)


def drop_path_rates(last: float, blocks: int) -> list[float]:
    """Rates of each block, linear from 0 to `last`."""
    return [float(rate) for rate in np.linspace(0, last, blocks)]

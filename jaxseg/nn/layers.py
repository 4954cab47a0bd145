"""Convolution, normalisation and the small perceptron, in the originals' conventions."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from jaxseg.nn.initializers import kaiming_normal_fan_out, torch_bias, torch_uniform
from jaxseg.ops.conv import conv
from jaxseg.typing import Array, Bool, DTypeLike, Float


class Conv(nn.Module):
    """A convolution with torch's symmetric padding, `dilation · (kernel // 2)` on every side.

    XLA's "SAME" pads an even input asymmetrically under stride 2, so it is never used.
    A 1×1 kernel is written as a matrix product: the same numbers, and several times faster
    where the compiler's convolution is tuned for larger windows.
    """

    features: int
    kernel: int = 3
    stride: int = 1
    dilation: int = 1
    use_bias: bool = False
    kernel_init: Callable = kaiming_normal_fan_out
    bias_init: Callable = nn.initializers.zeros
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _h _w {self.features}"]:
        shape = (self.kernel, self.kernel, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        x, kernel = (jnp.asarray(array, self.dtype) for array in (x, kernel))
        if self.kernel == 1:
            y = jnp.einsum("bhwc,cd->bhwd", x[:, :: self.stride, :: self.stride], kernel[0, 0])
        else:
            padding = self.dilation * (self.kernel // 2)
            y = conv(x, kernel, self.stride, padding, self.dilation)
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype)
            y = y + bias.astype(self.dtype)
        return y


class FrozenBatchNorm(nn.Module):
    """Batch normalisation whose statistics and affine map are constants, in training too.

    The four arrays stay parameters, under `stop_gradient`, so that a checkpoint goes back as
    it came.
    """

    epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"] | None = None
    ) -> Float[Array, "b h w c"]:
        del mask  # constants see no padding
        ones, zeros = nn.initializers.ones, nn.initializers.zeros
        shape = (x.shape[-1],)
        inits = {"scale": ones, "bias": zeros, "mean": zeros, "var": ones}
        scale, bias, mean, var = (
            lax.stop_gradient(self.param(name, init, shape, self.param_dtype))
            for name, init in inits.items()
        )
        scale = scale * lax.rsqrt(var + self.epsilon)
        bias = bias - mean * scale
        return x.astype(self.dtype) * scale.astype(self.dtype) + bias.astype(self.dtype)


class GroupNorm(nn.Module):
    """Group normalisation that can leave padding out of its statistics (in float32).

    Stands where `FrozenBatchNorm` does, for training from random weights.

    Attributes:
      groups: at most; the channels must divide.
      least: channels of a group.
    """

    groups: int = 32
    least: int = 2
    epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"] | None = None
    ) -> Float[Array, "b h w c"]:
        b, h, w, c = x.shape
        groups = max(1, min(self.groups, c // self.least))
        if c % groups:
            raise ValueError(
                f"{c} channels do not divide into {groups} groups: choose a width that is a "
                "multiple of the groups, or other groups"
            )
        # An image without a real pixel fills up a batch; its statistics only have to be finite.
        count = h * w if mask is None else jnp.maximum(mask.sum((1, 2)), 1)[:, None]

        def mean(x):
            # By channels first: groups as an axis of the map would be far too narrow for a CPU.
            channels = jnp.sum(zero_padding(x, mask), (1, 2)) / count
            means = channels.reshape(b, groups, -1).mean(-1)
            return jnp.repeat(means, c // groups, -1)[:, None, None]

        centred = x.astype(jnp.float32) - mean(x.astype(jnp.float32))
        var = mean(jnp.square(centred))
        scale = self.param("scale", nn.initializers.ones, (c,), self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (c,), self.param_dtype)
        return (centred * (lax.rsqrt(var + self.epsilon) * scale) + bias).astype(self.dtype)


def zero_padding(x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"] | None):
    """Set features outside the mask to zero; no mask, no change."""
    return x if mask is None else jnp.where(mask[..., None], x, 0)


class PReLU(nn.Module):
    """A rectifier with one learnt slope for negative numbers (arXiv 1502.01852), from 0.25."""

    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*b"]) -> Float[Array, "*b"]:
        slope = self.param("scale", nn.initializers.constant(0.25), (1,), self.param_dtype)
        return jnp.where(x > 0, x, x * slope.astype(x.dtype))


def layer_norm(
    name: str | None = None,
    *,
    epsilon: float = 1e-5,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
) -> nn.LayerNorm:
    """Layer normalisation with torch's epsilon (Linen's is 1e-6), statistics in float32."""
    return nn.LayerNorm(
        epsilon=epsilon, dtype=dtype, param_dtype=param_dtype, use_fast_variance=False, name=name
    )


class Mlp(nn.Module):
    """Linear layers `layer_0`, `layer_1`, … with ReLU between them.

    Attributes:
      kernel_init: of the weights; biases have torch's default.
      final_kernel_init, final_bias_init, final_dtype: of the last layer, if others.
    """

    widths: tuple[int, ...]
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    kernel_init: Callable = torch_uniform
    final_kernel_init: Callable | None = None
    final_bias_init: Callable | None = None
    final_dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b _d"]:
        for i, width in enumerate(self.widths):
            last = i + 1 == len(self.widths)
            x = nn.Dense(
                width,
                kernel_init=(last and self.final_kernel_init) or self.kernel_init,
                bias_init=(last and self.final_bias_init) or torch_bias(x.shape[-1]),
                dtype=(last and self.final_dtype) or self.dtype,
                param_dtype=self.param_dtype,
                name=f"layer_{i}",
            )(x)
            x = x if last else jax.nn.relu(x)
        return x


def torch_dense(
    features: int, fan_in: int, name: str, dtype: DTypeLike, param_dtype: DTypeLike
) -> nn.Dense:
    """A linear layer with torch's default initial weight and bias."""
    return nn.Dense(
        features,
        kernel_init=torch_uniform,
        bias_init=torch_bias(fan_in),
        dtype=dtype,
        param_dtype=param_dtype,
        name=name,
    )

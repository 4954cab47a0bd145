"""A pyramid from the one map of a plain transformer (ViTDet, arXiv 2203.16527, section 3)."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen as nn

from jaxseg.backbones.vit import vit
from jaxseg.nn.initializers import torch_uniform
from jaxseg.nn.layers import Conv, layer_norm, zero_padding
from jaxseg.nn.transposed_conv import TransposedConv
from jaxseg.ops.pool import max_pool
from jaxseg.typing import Array, Bool, DTypeLike, Float

# Factor of resolution -> name of the level's parameters.
LEVELS = {4: "up4", 2: "up2", 1: "same", 0.5: "down2"}
EPSILON = 1e-6


class PyramidLevel(nn.Module):
    """One factor: transposed convolutions or pooling, then a 1×1 and a 3×3 convolution."""

    factor: int | float
    width: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"] | None
    ) -> Float[Array, "b _h _w {self.width}"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        c = x.shape[-1]
        if self.factor > 1:
            x = TransposedConv(c // 2, **dtypes, name="up1")(x)
        if self.factor == 4:
            x = nn.gelu(layer_norm("up_norm", epsilon=EPSILON, **dtypes)(x), approximate=False)
            x = TransposedConv(c // 4, **dtypes, name="up2")(x)
        if self.factor == 0.5:
            x = max_pool(x, 2, 2)  # an odd last row is left out
        mask = scale_mask(mask, self.factor)
        for i, kernel in ((1, 1), (2, 3)):
            x = zero_padding(x, mask) if kernel > 1 else x
            x = Conv(self.width, kernel, kernel_init=torch_uniform, **dtypes, name=f"conv{i}")(x)
            x = layer_norm(f"norm{i}", epsilon=EPSILON, **dtypes)(x)
        return x


class SimpleFeaturePyramid(nn.Module):
    """Levels of one width at several factors of a map's resolution.

    Attributes:
      width: channels of every level.
      factors: of the map's resolution, finest first; of 4, 2, 1 and ½.
      extra_level: every second row and column of the last level as one more.
    """

    width: int = 256
    factors: Sequence[int | float] = (4, 2, 1, 0.5)
    extra_level: bool = False
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    def strides(self, stride: int) -> tuple[int, ...]:
        """Strides of the levels that come of a map of a stride."""
        strides = [int(stride / factor) for factor in self.factors]
        return (*strides, 2 * strides[-1]) if self.extra_level else tuple(strides)

    def masks(self, mask: Bool[Array, "b h w"]) -> tuple[Bool[Array, "b _h _w"], ...]:
        """True on the real positions of each level, for a mask of the map."""
        masks = [scale_mask(mask, factor) for factor in self.factors]
        return (*masks, masks[-1][:, ::2, ::2]) if self.extra_level else tuple(masks)

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"] | None = None
    ) -> tuple[Float[Array, "b _h _w {self.width}"], ...]:
        """Compute the levels, finest first.

        Args:
          mask: True on real positions of the map; with it the levels are those of each image
            alone. Pooling leaves out an odd last row or column, as it does there.
        """
        levels = []
        for factor in self.factors:
            if factor not in LEVELS:
                raise ValueError(f"a pyramid's factors are of {sorted(LEVELS)}; got {factor}")
            level = PyramidLevel(
                factor, self.width, self.dtype, self.param_dtype, name=LEVELS[factor]
            )
            levels.append(level(x, mask))
        if self.extra_level:
            levels.append(levels[-1][:, ::2, ::2])
        return tuple(levels)


def scale_mask(
    mask: Bool[Array, "b h w"] | None, factor: int | float
) -> Bool[Array, "b _h _w"] | None:
    """The mask of a level."""
    if mask is None or factor == 1:
        return mask
    if factor < 1:
        return mask[:, 1::2, 1::2]
    return mask.repeat(int(factor), 1).repeat(int(factor), 2)


class PyramidBackbone(nn.Module):
    """A plain transformer and its pyramid as one backbone of several strides.

    Attributes:
      net: images to one map; has `strides`, and `patch` pixels to a token.
      pyramid: the levels made of it.
    """

    net: nn.Module
    pyramid: SimpleFeaturePyramid

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels of the image to a step of each returned map."""
        return self.pyramid.strides(self.net.strides[-1])

    def masks(self, mask: Bool[Array, "b H W"]) -> tuple[Bool[Array, "b _h _w"], ...]:
        """True on the real positions of each returned map, for a mask of the image."""
        stride = self.net.strides[-1]
        return self.pyramid.masks(mask[:, ::stride, ::stride])

    def __call__(
        self,
        pixels: Float[Array, "b h w 3"],
        mask: Bool[Array, "b h w"] | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "b _h _w _c"], ...]:
        """Compute the levels; `mask` and `train` as in `backbones.vit.ViT`."""
        (x,) = self.net(pixels, mask, train)
        stride = self.net.strides[-1]
        return self.pyramid(x, None if mask is None else mask[:, ::stride, ::stride])


def vit_pyramid(
    size: str,
    num_levels: int,
    width: int,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
    **options,
) -> PyramidBackbone:
    """A plain transformer whose map becomes the `num_levels` coarsest of strides 4 to 32.

    Args:
      size: in `backbones.vit.SIZES`.
      options: of `backbones.vit.vit`.
    """
    dtypes = {"dtype": dtype, "param_dtype": param_dtype}
    return PyramidBackbone(
        net=vit(size, **options, **dtypes),
        pyramid=SimpleFeaturePyramid(width, tuple(LEVELS)[-num_levels:], **dtypes),
    )

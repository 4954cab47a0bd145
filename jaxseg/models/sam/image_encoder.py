"""Segment Anything's image encoder (arXiv 2304.02643, section A): a plain ViT and a neck."""

import jax.numpy as jnp
from flax import linen as nn

from jaxseg.backbones.vit import ViT
from jaxseg.nn.initializers import torch_uniform
from jaxseg.nn.layers import Conv, layer_norm
from jaxseg.typing import Array, DTypeLike, Float

EPSILON = 1e-6


class Neck(nn.Module):
    """Convolutions of one and of three rows and columns, each with a norm over channels."""

    features: int = 256
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w {self.features}"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        for i, kernel in enumerate((1, 3), 1):
            x = Conv(self.features, kernel, kernel_init=torch_uniform, name=f"conv{i}", **dtypes)(x)
            x = layer_norm(f"norm{i}", epsilon=EPSILON, **dtypes)(x)
        return x


class ImageEncoder(nn.Module):
    """Pixels of the whole canvas to the image's embedding.

    Padding is content here: the original has no mask, and every image lies on one square.
    """

    vit: ViT
    neck: Neck

    @nn.compact
    def __call__(
        self, pixels: Float[Array, "b H W 3"], train: bool = False
    ) -> Float[Array, "b h w d"]:
        """Encode.

        Args:
          pixels: normalised, zero on padding.
          train: drop paths (rng "dropout").
        """
        (x,) = self.vit(pixels, None, train)
        return self.neck(x)

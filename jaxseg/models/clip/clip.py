"""CLIP (arXiv 2103.00020, figure 3): images and texts as points of one space.

features = encode_image(pixels)      a vision transformer's class token
features = encode_text(ids)          a causal transformer's last token
logits   = exp(logit_scale) · cosine of each image with each text
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxseg.nn.layers import layer_norm
from jaxseg.structures import ClipOutput, ImageFeatures, TextFeatures
from jaxseg.text.clip_text import ClipBlock, ClipText, projection, quick_gelu
from jaxseg.typing import Array, Bool, DTypeLike, Float, Int


class ClipImage(nn.Module):
    """A vision transformer with a class token and a norm in front of the blocks.

    Attributes:
      width, depth, num_heads: of the blocks.
      features: width of the embedding.
      image_size: pixels of a side of every image.
      patch: pixels of a side of the patches.
      mlp_ratio, activation, epsilon: of the blocks.
    """

    width: int = 768
    depth: int = 12
    num_heads: int = 12
    features: int = 512
    image_size: int = 224
    patch: int = 32
    mlp_ratio: float = 4.0
    activation: Callable = quick_gelu
    epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @property
    def grid(self) -> int:
        """Patches of a side."""
        return self.image_size // self.patch

    @nn.compact
    def __call__(
        self, pixels: Float[Array, "b h w 3"], inside: Bool[Array, "b g g"] | None = None
    ) -> ImageFeatures:
        """Encode images.

        Args:
          pixels: normalised, (b, image_size, image_size, 3).
          inside: patches that the class token attends to in the last block, and to nothing else:
            the embedding is then of a part of the image (arXiv 2304.02643, section D.5).

        Raises:
          ValueError: images of another size.
        """
        side = self.image_size
        if pixels.shape[1:3] != (side, side):
            raise ValueError(
                f"this model's images are {side} × {side}; got {pixels.shape[1]} × "
                f"{pixels.shape[2]}: prepare them with predict.clip_image.clip_pixels"
            )
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = embedded = self._embed(pixels.astype(self.dtype), dtypes)
        for i in range(self.depth):
            last = i + 1 == self.depth
            x = ClipBlock(
                self.num_heads,
                self.mlp_ratio,
                self.activation,
                self.epsilon,
                **dtypes,
                name=f"block_{i}",
            )(x, class_attention(inside) if last and inside is not None else None)
        pooled = layer_norm("norm_post", epsilon=self.epsilon, **dtypes)(x[:, 0])
        return ImageFeatures(projection(self.features, **dtypes)(pooled), pooled, embedded, x)

    def _embed(self, pixels, dtypes) -> Float[Array, "b n d"]:
        scale = nn.initializers.normal(self.width**-0.5)
        x = nn.Conv(
            self.width,
            (self.patch, self.patch),
            (self.patch, self.patch),
            padding="VALID",
            use_bias=False,
            name="patch_embed",
            **dtypes,
        )(pixels)
        x = x.reshape(len(x), -1, self.width)
        token = self.param("class_token", scale, (self.width,), self.param_dtype)
        token = jnp.broadcast_to(token.astype(self.dtype), (len(x), 1, self.width))
        x = jnp.concatenate((token, x), axis=1)
        positions = self.param("position_embed", scale, x.shape[1:], self.param_dtype)
        return layer_norm("norm_pre", epsilon=self.epsilon, **dtypes)(
            x + positions.astype(self.dtype)
        )


class Clip(nn.Module):
    """Two towers and the temperature that their likeness is read at.

    Attributes:
      image: pixels to features.
      text: token ids to features.
    """

    image: ClipImage
    text: ClipText
    param_dtype: DTypeLike = jnp.float32

    @property
    def canvas_size(self) -> int:
        """Pixels of a side of every image."""
        return self.image.image_size

    def setup(self):
        start = nn.initializers.constant(np.log(1 / 0.07))
        self.logit_scale = self.param("logit_scale", start, (), self.param_dtype)

    def __call__(self, pixels: Float[Array, "b h w 3"], ids: Int[Array, "m s"]) -> ClipOutput:
        """Compare images with texts; arguments of the towers."""
        image, text = self.image(pixels), self.text(ids)
        logits = similarity(image.features, text.features)
        return ClipOutput(image, text, jnp.exp(self.logit_scale.astype(jnp.float32)) * logits)

    def encode_image(
        self, pixels: Float[Array, "b h w 3"], inside: Bool[Array, "b g g"] | None = None
    ) -> ImageFeatures:
        """Images alone; arguments of `ClipImage`."""
        return self.image(pixels, inside)

    def encode_text(self, ids: Int[Array, "m s"]) -> TextFeatures:
        """Texts alone; arguments of `ClipText`."""
        return self.text(ids)


def class_attention(inside: Bool[Array, "b g g"]) -> Bool[Array, "b n n"]:
    """Where tokens may attend if the class token, the first, sees the patches inside alone."""
    patches = inside.reshape(len(inside), -1)
    first = jnp.pad(patches, ((0, 0), (1, 0)))
    count = first.shape[1]
    return jnp.ones((len(inside), count, count), bool).at[:, 0].set(first)


def unit(features: Float[Array, "b e"]) -> Float[Array, "b e"]:
    """Features of length one, in float32."""
    features = features.astype(jnp.float32)
    return features / jnp.linalg.norm(features, axis=-1, keepdims=True)


def similarity(image: Float[Array, "b e"], text: Float[Array, "m e"]) -> Float[Array, "b m"]:
    """The cosine of each image's features with each text's, in float32."""
    return unit(image) @ unit(text).T

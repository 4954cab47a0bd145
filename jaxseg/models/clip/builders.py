"""A function for each published CLIP with a vision transformer, and a small one."""

from typing import NamedTuple

import jax.numpy as jnp

from jaxseg.models.clip.clip import Clip, ClipImage
from jaxseg.text.clip_text import ClipText, exact_gelu, quick_gelu
from jaxseg.typing import DTypeLike

ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": exact_gelu}


class Size(NamedTuple):
    """Of the embedding, the image tower and the text tower."""

    width: int
    image_width: int
    image_depth: int
    image_heads: int
    image_size: int
    patch: int
    text_width: int
    text_heads: int


# arXiv 2103.00020, table 20; every text tower has 12 layers.
SIZES = {
    "base_32": Size(512, 768, 12, 12, 224, 32, 512, 8),
    "base_16": Size(512, 768, 12, 12, 224, 16, 512, 8),
    "large_14": Size(768, 1024, 24, 16, 224, 14, 768, 12),
    "large_14_336": Size(768, 1024, 24, 16, 336, 14, 768, 12),
}


def clip(
    *,
    width: int = 512,
    image_width: int = 768,
    image_depth: int = 12,
    image_heads: int = 12,
    image_size: int = 224,
    patch: int = 32,
    text_width: int = 512,
    text_depth: int = 12,
    text_heads: int = 8,
    context: int = 77,
    vocabulary: int = 49408,
    mlp_ratio: float = 4.0,
    activation: str = "quick_gelu",
    epsilon: float = 1e-5,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
) -> Clip:
    """Any CLIP; the defaults are ViT-B/32.

    Args:
      width: of the embedding that images and texts share.
      image_width, image_depth, image_heads: of the image tower.
      image_size, patch: pixels of a side of the images and of their patches.
      text_width, text_depth, text_heads: of the text tower.
      context, vocabulary: tokens of the longest text, and tokens there are.
      mlp_ratio, epsilon: of the blocks of both towers.
      activation: "quick_gelu", or "gelu" of CLIPs that others trained.
    """
    if image_size % patch:
        raise ValueError(
            f"image_size must be a multiple of the patch; got {image_size} and {patch}"
        )
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}; got {activation!r}")
    blocks = {"mlp_ratio": mlp_ratio, "activation": ACTIVATIONS[activation], "epsilon": epsilon}
    shared = blocks | {"features": width, "dtype": dtype, "param_dtype": param_dtype}
    return Clip(
        ClipImage(
            image_width, image_depth, image_heads, image_size=image_size, patch=patch, **shared
        ),
        ClipText(
            text_width, text_depth, text_heads, context=context, vocabulary=vocabulary, **shared
        ),
        param_dtype=param_dtype,
    )


def vit_b32(**fields) -> Clip:
    """CLIP ViT-B/32: 151 M parameters."""
    return clip(**SIZES["base_32"]._asdict() | fields)


def vit_b16(**fields) -> Clip:
    """CLIP ViT-B/16: 150 M parameters."""
    return clip(**SIZES["base_16"]._asdict() | fields)


def vit_l14(**fields) -> Clip:
    """CLIP ViT-L/14: 428 M parameters."""
    return clip(**SIZES["large_14"]._asdict() | fields)


def vit_l14_336(**fields) -> Clip:
    """CLIP ViT-L/14 at 336 pixels: 428 M parameters."""
    return clip(**SIZES["large_14_336"]._asdict() | fields)


def tiny(**fields) -> Clip:
    """A CLIP for two CPU cores and random weights: images of 64 × 64, blocks of 64, 300 tokens."""
    small = {
        "width": 32,
        "image_width": 64,
        "image_depth": 2,
        "image_heads": 1,
        "image_size": 64,
        "patch": 16,
        "text_width": 64,
        "text_depth": 2,
        "text_heads": 1,
        "context": 16,
        "vocabulary": 300,
    }
    return clip(**small | fields)

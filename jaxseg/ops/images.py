"""From uint8 canvases to what a backbone reads, and masks at feature size."""

import jax.numpy as jnp

from jaxseg.ops.masks import resize_nearest
from jaxseg.structures import Images
from jaxseg.typing import Array, Bool, Int

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalize(images: Images, mean=IMAGENET_MEAN, std=IMAGENET_STD) -> Images:
    """Standardise each channel and set the padding to zero, in float32.

    uint8 pixels are first scaled to [0, 1]; floating pixels must be in [0, 1] already.
    """
    pixels = jnp.asarray(images.pixels)
    scale = 255.0 if pixels.dtype == jnp.uint8 else 1.0
    pixels = pixels.astype(jnp.float32) / scale
    pixels = (pixels - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)
    return Images(jnp.where(images.mask[..., None], pixels, 0.0), images.mask)


def canvas_mask(
    sizes: Int[Array, "b 2"], height: int, width: int
) -> Bool[Array, "b {height} {width}"]:
    """True where a canvas of height × width holds an image of the given (h, w)."""
    rows = jnp.arange(height)[None, :, None] < sizes[:, 0, None, None]
    columns = jnp.arange(width)[None, None, :] < sizes[:, 1, None, None]
    return rows & columns


def resize_mask(
    mask: Bool[Array, "b H W"], height: int, width: int
) -> Bool[Array, "b {height} {width}"]:
    """Nearest neighbour as torch does it: row i reads row floor(i · H / height)."""
    return resize_nearest(mask, (height, width))

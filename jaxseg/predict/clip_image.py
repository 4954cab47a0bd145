"""Images as CLIP sees them: a square out of the middle, of one size.

pixels = clip_pixels(["cat.jpg", array], size=224)       # float32 (2, 224, 224, 3)
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from jaxseg.predict.preprocess import ImageSource, load_image

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def clip_pixels(
    images: Sequence[ImageSource],
    size: int = 224,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> np.ndarray:
    """Images of any size as float32 (b, size, size, 3), normalised.

    Args:
      images: whatever `preprocess.load_image` takes.
      size: pixels of a side, the model's `canvas_size`.
      mean, std: of RGB in [0, 1].

    Raises:
      UserError: an image that cannot be read.
    """
    squares = [middle(shrink(load_image(image), size), size) for image in images]
    pixels = np.zeros((len(squares), size, size, 3), np.float32)
    for row, square in enumerate(squares):
        pixels[row] = square
    return (pixels / np.float32(255) - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)


def shrink(image: np.ndarray, size: int) -> np.ndarray:
    """An image (h, w, 3) of uint8 whose short side is `size`: Pillow's bicubic, antialiased; the
    long side is cut to a whole number."""
    height, width = image.shape[:2]
    short, long = sorted((height, width))
    if short == size:
        return image
    sides = {short: size, long: int(size * long / short)} if short != long else {short: size}
    resized = Image.fromarray(image).resize((sides[width], sides[height]), Image.Resampling.BICUBIC)
    return np.array(resized)


def middle(image: np.ndarray, size: int) -> np.ndarray:
    """The square of `size` in the middle of an image (h, w, 3) that is as large or larger."""
    # Half a pixel goes to the even side, as torchvision's crop has it.
    top, left = (round((side - size) / 2) for side in image.shape[:2])
    return image[top : top + size, left : left + size]

"""From whatever a user calls an image to canvases of a few sizes."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from jaxseg.data import batching
from jaxseg.data.images import DAMAGED
from jaxseg.data.transforms import short_side_size
from jaxseg.errors import UserError
from jaxseg.structures import Images
from jaxseg.typing import Array

ImageSource: TypeAlias = str | PathLike | Image.Image | np.ndarray | Array
Size: TypeAlias = tuple[int, int]


class Prepared(NamedTuple):
    """An image as the model sees it.

    Attributes:
      pixels: uint8 RGB, resized.
      size: (h, w) of the upright original.
    """

    pixels: np.ndarray
    size: Size


def load_image(source: ImageSource) -> np.ndarray:
    """An image as uint8 RGB (h, w, 3), upright.

    Args:
      source: a path; a PIL image; or an array (h, w), (h, w, 1), (h, w, 3) or (h, w, 4) of uint8,
        uint16, bool, or floats in [0, 1]. EXIF orientation is applied, 16-bit grey is brought to
        8 bits, an alpha channel is dropped.

    Raises:
      UserError: the file is missing or cannot be decoded, or the array is none of the above.
    """
    if isinstance(source, str | PathLike):
        return _read(Path(source))
    if isinstance(source, Image.Image):
        return _from_pil(source)
    if hasattr(source, "__array__"):
        return _from_array(np.asarray(source))
    raise UserError(f"an image is a path, a PIL image or an array; got {type(source).__name__}")


def _read(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return _from_pil(image)
    except FileNotFoundError:
        raise UserError(f"no image at {path}: check the path") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder, not an image") from None
    except UserError as error:
        raise UserError(f"cannot use the image {path}: {error}") from error
    except Image.DecompressionBombError as error:
        raise UserError(
            f"the image {path} is larger than Pillow's limit for images it does not trust "
            f"({error}): scale it down or cut it up first, or, in Python, set "
            "PIL.Image.MAX_IMAGE_PIXELS = None"
        ) from error
    except UnidentifiedImageError:
        raise UserError(f"{path} is not an image that Pillow can read") from None
    except DAMAGED as error:
        raise UserError(f"cannot decode the image {path}: {error}") from error


def _from_pil(image: Image.Image) -> np.ndarray:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        return _from_array(_grey_array(image))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


def _grey_array(image: Image.Image) -> np.ndarray:
    # Pillow's 32-bit "I" is how some 16-bit files arrive; `convert("RGB")` would clip them at 255.
    values = np.array(image)
    if image.mode == "F":
        return values
    if values.min() < 0 or values.max() > 65535:
        raise UserError(
            f"grey values must be in 0..65535; got {values.min()}..{values.max()}: scale them first"
        )
    return values.astype(np.uint16)


def _from_array(array: np.ndarray) -> np.ndarray:
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[-1] not in (1, 3, 4) or 0 in array.shape:
        raise UserError(
            f"an image array must be (h, w), (h, w, 1), (h, w, 3) or (h, w, 4) and not empty; got "
            f"{array.shape}: put the channels last, and pass several images as a list"
        )
    array = _to_uint8(array)
    array = np.repeat(array, 3, -1) if array.shape[-1] == 1 else array[..., :3]
    return np.ascontiguousarray(array)


def _to_uint8(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.uint16:
        return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if array.dtype == bool:
        return array.astype(np.uint8) * 255
    if not np.issubdtype(array.dtype, np.floating) and array.dtype.name != "bfloat16":
        raise UserError(
            f"an image array must be uint8, uint16, bool or float; got {array.dtype}: "
            "use .astype(np.uint8) if its values are 0..255"
        )
    array = array.astype(np.float32)
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high <= 1):
        raise UserError(
            f"a float image must lie in [0, 1]; got {low:g}..{high:g}: divide by 255, and do not "
            "normalise: the detector does"
        )
    return np.rint(array * 255).astype(np.uint8)


def resized_size(size: Size, short_side: int, long_side: int, limit: int | None = None) -> Size:
    """(h, w) after DETR's resizing: the short side, unless the long one would pass its limit.

    Rounding the short side can still leave the long one over `long_side`; `limit` is never passed.
    """
    resized = short_side_size(size, short_side, long_side)
    height, width = (min(side, limit or side) for side in resized)
    return height, width


def resize(image: np.ndarray, size: Size) -> np.ndarray:
    """Antialiased bilinear on 8 bits, as Pillow does it; untouched where the size is right."""
    if image.shape[:2] == tuple(size):
        return image
    height, width = size
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    return np.array(resized)


def default_buckets(short_side: int, long_side: int, stride: int) -> tuple[Size, ...]:
    """Canvases for all that `resized_size` returns: ratios to 4:3 and beyond, both ways up."""
    short, long = _round_up(short_side, stride), _round_up(max(short_side, long_side), stride)
    middle = min(long, _round_up(-(-short_side * 4 // 3), stride))
    landscape = [(short, middle), (short, long)]
    portrait = [(width, height) for height, width in landscape]
    return tuple(dict.fromkeys(landscape + portrait))


def choose_bucket(size: Size, buckets: Sequence[Size]) -> Size:
    """The smallest canvas (h, w) that holds an image of `size`.

    Raises:
      UserError: none does.
    """
    buckets = batching.by_area(buckets)
    chosen = batching.choose_bucket(size, buckets)
    if chosen is None:
        raise UserError(f"no canvas among {list(buckets)} holds an image of {tuple(size)} (h, w)")
    return buckets[chosen]


def put_on_canvas(images: Sequence[np.ndarray], bucket: Size) -> Images:
    """uint8 images at the top left of zero canvases, with their masks (numpy)."""
    pixels = np.zeros((len(images), *bucket, 3), np.uint8)
    mask = np.zeros((len(images), *bucket), bool)
    for row, image in enumerate(images):
        height, width = image.shape[:2]
        pixels[row, :height, :width] = image
        mask[row, :height, :width] = True
    return Images(pixels, mask)


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple

"""Reading image files, with errors that name the file."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from jaxseg.errors import UserError

# Everything Pillow's decoders raise on damaged files.
DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def read_image(source: str | Path | bytes, name: str | None = None) -> np.ndarray:
    """Decode to uint8 RGB (h, w, 3), as stored: an EXIF orientation is not applied.

    COCO's annotations, and its tools, mean the stored pixels. 16-bit grey becomes 8-bit.

    Args:
      source: a file, or the bytes of one.
      name: of the image in messages; by default the file.

    Raises:
      UserError: no such file, or it is damaged.
    """
    try:
        with Image.open(_handle(source)) as image:
            return _rgb(image)
    except FileNotFoundError:
        raise UserError(
            f"the image {name or source} does not exist; put it there, or take it out of the "
            "annotations"
        ) from None
    except DAMAGED as error:
        raise UserError(
            f"the image {name or source} cannot be read ({error}); replace the file, or take it "
            "out of the annotations (`jaxseg doctor` lists every such file)"
        ) from error


def read_size(source: str | Path | bytes, name: str | None = None) -> tuple[int, int]:
    """Height and width from the header alone.

    Raises:
      UserError: no such file, or it has no readable header.
    """
    try:
        with Image.open(_handle(source)) as image:
            return image.height, image.width
    except FileNotFoundError:
        raise UserError(f"the image {name or source} does not exist") from None
    except DAMAGED as error:
        raise UserError(f"the image {name or source} cannot be read ({error})") from error


def orientation(image: Image.Image) -> int:
    """EXIF orientation: 1 is upright, 5 to 8 swap height and width."""
    return int(image.getexif().get(ExifTags.Base.Orientation, 1))


def check_size(name: str, found: tuple[int, int], stated: tuple[int, int]) -> None:
    """Raise `UserError` unless a file has the (h, w) that its annotations state."""
    if tuple(found) == tuple(stated):
        return
    hint = ""
    if tuple(found) == tuple(stated)[::-1]:
        hint = " (swapped: the boxes may have been drawn on the picture turned upright by EXIF)"
    raise UserError(
        f"the image {name} is {found[1]} x {found[0]} pixels, but its annotations state "
        f"{stated[1]} x {stated[0]}{hint}; correct the annotations or the file"
    )


def _rgb(image: Image.Image) -> np.ndarray:
    if not (image.mode.startswith("I") or image.mode == "F"):
        return np.asarray(image.convert("RGB"))
    # Pillow's own conversion clips at 255; 16-bit grey is scaled, as it is for prediction.
    grey = np.asarray(image)
    if image.mode == "F" or grey.min() < 0 or grey.max() > 65535:
        raise ValueError("grey values must be whole numbers of 8 or 16 bits")
    scaled = (grey.astype(np.uint32) + 128) // 257
    return np.repeat(scaled.astype(np.uint8)[..., None], 3, -1)


def _handle(source: str | Path | bytes):
    return io.BytesIO(source) if isinstance(source, bytes) else source

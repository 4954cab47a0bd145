"""Colours laid over pixels."""

from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageFilter

from jaxseg.predict.tags import Color

TINT = 0.45  # share of an object's colour


def tint(
    picture: Image.Image, masks: Iterable[np.ndarray], colors: Sequence[Color], thickness: int
) -> Image.Image:
    """The picture with each mask, bool (h, w), in its colour and a line around it; later on top."""
    pixels = np.array(picture)
    for mask, color in zip(masks, colors, strict=True):
        if not mask.any():
            continue
        rows, columns = _window(mask, thickness)
        inside = mask[rows, columns]
        part = pixels[rows, columns]
        blend(part, inside, color, TINT)
        part[inside & ~_eroded(inside, thickness)] = color
    return Image.fromarray(pixels)


def blend(pixels: np.ndarray, mask: np.ndarray, color: Color, share: float) -> None:
    """Mix a share of a colour into the masked ones of uint8 pixels (h, w, 3), in place."""
    mixed = pixels[mask] * (1 - share) + np.asarray(color, np.float32) * share
    pixels[mask] = np.rint(mixed).astype(np.uint8)


def borders(ids: np.ndarray, thickness: int) -> np.ndarray:
    """Pixels whose neighbour to the right or below, up to `thickness` away, is another segment."""
    border = np.zeros(ids.shape, bool)
    for step in range(1, thickness + 1):
        border[step:] |= ids[step:] != ids[:-step]
        border[:, step:] |= ids[:, step:] != ids[:, :-step]
    return border


def _window(mask: np.ndarray, margin: int) -> tuple[slice, slice]:
    """Rows and columns that hold the mask and a margin."""
    spans = []
    for axis in (1, 0):
        (hit,) = np.nonzero(mask.any(axis))
        spans.append(slice(max(0, int(hit[0]) - margin), int(hit[-1]) + 1 + margin))
    return spans[0], spans[1]


def _eroded(mask: np.ndarray, thickness: int) -> np.ndarray:
    size = 2 * thickness + 1
    # The filter leaves a rim of its radius as it is; the image's border is no outline.
    padded = np.pad(mask, thickness, mode="edge")
    shrunk = Image.fromarray(padded.astype(np.uint8) * 255).filter(ImageFilter.MinFilter(size))
    return np.asarray(shrunk)[thickness:-thickness, thickness:-thickness] > 0

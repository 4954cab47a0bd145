"""What augmentation does to one example, with nothing random left in it.

An edit knows the size of its result from the size of its input, so a whole chain's result can be
assigned to a canvas before any image is decoded.
"""

import dataclasses
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from PIL import Image

from jaxseg.data.dataset import Example

Size = tuple[int, int]
SIDES = re.compile(r"\b(left|right)\b", re.IGNORECASE)


class Edit(Protocol):
    """A deterministic change of an example."""

    def size(self, size: Size) -> Size:
        """(h, w) of the result, given (h, w) of the input."""

    def __call__(self, example: Example) -> Example: ...


def apply(edits: Iterable[Edit], example: Example) -> Example:
    """One edit after the other."""
    for edit in edits:
        example = edit(example)
    return example


def final_size(edits: Iterable[Edit], size: Size) -> Size:
    """(h, w) that `apply` will arrive at."""
    for edit in edits:
        size = edit.size(size)
    return size


@dataclass(frozen=True)
class Flip:
    """Mirror left and right ("horizontal") or top and bottom ("vertical").

    Of a caption and its phrases the words "left" and "right" change places with the sides; names
    of classes keep theirs.
    """

    axis: Literal["horizontal", "vertical"] = "horizontal"

    def size(self, size: Size) -> Size:
        return size

    def __call__(self, example: Example) -> Example:
        array_axis = 1 if self.axis == "horizontal" else 0
        low, high = (0, 2) if self.axis == "horizontal" else (1, 3)
        boxes = example.boxes.copy()
        boxes[:, [low, high]] = example.size[array_axis] - example.boxes[:, [high, low]]
        masks = example.masks
        said = _other_side(example) if self.axis == "horizontal" else example
        return dataclasses.replace(
            said,
            image=self._mirrored(example.image),
            boxes=boxes,
            masks=None if masks is None else np.flip(masks, array_axis + 1),
        )

    def _mirrored(self, image: np.ndarray) -> np.ndarray:
        if self.axis == "vertical":
            return image[::-1]
        # Pillow mirrors pixels whole; NumPy would copy them later byte by byte.
        picture = Image.fromarray(image).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return np.asarray(picture)


@dataclass(frozen=True)
class Resize:
    """Resize to exactly (height, width): Pillow's bilinear for the image, nearest for masks."""

    height: int
    width: int

    def size(self, size: Size) -> Size:
        return self.height, self.width

    def __call__(self, example: Example) -> Example:
        height, width = example.size
        if (height, width) == (self.height, self.width):
            return example
        picture = Image.fromarray(example.image)
        picture = picture.resize((self.width, self.height), Image.Resampling.BILINEAR)
        down, across = self.height / height, self.width / width
        scale = np.asarray([across, down, across, down], np.float32)
        masks = example.masks
        if masks is not None:
            rows, columns = _nearest(height, self.height), _nearest(width, self.width)
            masks = masks[:, rows][:, :, columns]
        return dataclasses.replace(
            example,
            image=np.asarray(picture),
            boxes=example.boxes * scale,
            area=example.area * np.float32(down * across),
            masks=masks,
        )


@dataclass(frozen=True)
class Crop:
    """Cut out a window; boxes are clipped to it and those left without an area go."""

    top: int
    left: int
    height: int
    width: int

    def size(self, size: Size) -> Size:
        return self.height, self.width

    def __call__(self, example: Example) -> Example:
        rows = slice(self.top, self.top + self.height)
        columns = slice(self.left, self.left + self.width)
        offset = np.asarray([self.left, self.top] * 2, np.float32)
        limit = np.asarray([self.width, self.height] * 2, np.float32)
        boxes = np.clip(example.boxes - offset, 0, limit)
        extent = boxes[:, 2:] - boxes[:, :2]
        cropped = dataclasses.replace(
            example,
            image=example.image[rows, columns],
            boxes=boxes,
            area=extent.prod(-1),
            masks=None if example.masks is None else example.masks[:, rows, columns],
        )
        return cropped.select((extent > 0).all(-1))


def _other_side(example: Example) -> Example:
    """An example whose caption and phrases say of left and right what its mirror image shows."""
    caption, names, spans = example.caption, example.names, example.spans
    if caption is not None and spans is not None:
        spans = tuple(
            tuple((_moved(caption, begin), _moved(caption, end)) for begin, end in span)
            for span in spans
        )
    if names is not None and not example.exhaustive:
        names = tuple(map(_swapped, names))
    caption = None if caption is None else _swapped(caption)
    return dataclasses.replace(example, caption=caption, names=names, spans=spans)


def _swapped(text: str) -> str:
    return SIDES.sub(lambda match: _opposite(match[0]), text)


def _opposite(word: str) -> str:
    other = "right" if word.lower() == "left" else "left"
    if word.isupper():
        return other.upper()
    return other.capitalize() if word[0].isupper() else other


def _moved(text: str, place: int) -> int:
    """Where a place between characters lies in the `_swapped` text."""
    before = (match[0] for match in SIDES.finditer(text) if match.end() <= place)
    return place + sum(len(_opposite(word)) - len(word) for word in before)


def _nearest(old: int, new: int) -> np.ndarray:
    # float32, as torch computes it: in float64 some indices differ.
    source = np.arange(new, dtype=np.float32) * np.float32(old / new)
    return np.minimum(np.floor(source).astype(np.int64), old - 1)

"""Augmentation: a transform draws edits from an image's size and a random generator alone.

    edits = transform.draw((h, w), rng)     `final_size(edits, (h, w))` is known, nothing decoded
    example = apply(edits, example)

`detr_augmentation` and `evaluation_transform` are DETR's own.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np

from jaxseg.data.edits import Crop, Edit, Flip, Resize, Size, apply, final_size

__all__ = [
    "Chain",
    "DetrAugmentation",
    "Either",
    "FixedSize",
    "RandomCrop",
    "RandomFlip",
    "RandomResize",
    "ScaleJitter",
    "ShortSide",
    "SmallSetAugmentation",
    "Transform",
    "apply",
    "detr_augmentation",
    "evaluation_transform",
    "final_size",
    "pixels",
    "short_side_size",
    "small_set_augmentation",
]


class Transform(Protocol):
    """A recipe for edits."""

    def draw(self, size: Size, rng: np.random.Generator) -> tuple[Edit, ...]:
        """Edits for an image of (h, w); the same generator state gives the same edits."""


def pixels(**options: Any) -> Any:
    """A dataclass's field for lengths in pixels, which `scaling.scaled` multiplies."""
    return dataclasses.field(metadata={"pixels": True}, **options)


@dataclass(frozen=True)
class Chain:
    """One transform after the other."""

    transforms: tuple[Transform, ...] = ()

    def draw(self, size: Size, rng: np.random.Generator) -> tuple[Edit, ...]:
        edits: tuple[Edit, ...] = ()
        for transform in self.transforms:
            drawn = transform.draw(size, rng)
            size = final_size(drawn, size)
            edits += drawn
        return edits


@dataclass(frozen=True)
class Either:
    """`first` with probability p, otherwise `second`."""

    first: Transform
    second: Transform
    p: float = 0.5

    def draw(self, size: Size, rng: np.random.Generator) -> tuple[Edit, ...]:
        return (self.first if rng.random() < self.p else self.second).draw(size, rng)


@dataclass(frozen=True)
class RandomFlip:
    """Mirror with probability p."""

    p: float = 0.5
    axis: Literal["horizontal", "vertical"] = "horizontal"

    def draw(self, size: Size, rng: np.random.Generator) -> tuple[Edit, ...]:
        return (Flip(self.axis),) if rng.random() < self.p else ()


@dataclass(frozen=True)
class ShortSide:
    """Resize so that the short side is `short` pixels, and the long one at most `long` (or any)."""

    short: int = pixels()
    long: int | None = pixels(default=None)

    def draw(self, size: Size, rng: np.random.Generator) -> tuple[Edit, ...]:
        new = short_side_size(size, self.short, self.long)
        return () if new == tuple(size) else (Resize(*new),)


@dataclass(frozen=True)
class RandomResize:
    """`ShortSide` with one of several short sides."""

    shorts: tuple[int, ...] = pixels()
    long: int | None = pixels(default=None)

    def draw(self, size: Size, rng: np.random.Generator) -> tuple[Edit, ...]:
        short = self.shorts[rng.integers(len(self.shorts))]
        return ShortSide(short, self.long).draw(size, rng)


@dataclass(frozen=True)
class FixedSize:
    """Resize to (height, width) exactly; the aspect ratio changes."""

    height: int = pixels()
    width: int = pixels()

    def draw(self, size: Size, rng: np.random.Generator) -> tuple[Edit, ...]:
        new = (self.height, self.width)
        return () if new == tuple(size) else (Resize(*new),)


@dataclass(frozen=True)
class RandomCrop:
    """Cut out a window whose sides are uniform in [low, min(side, high)], anywhere.

    A side shorter than `low` is kept whole.
    """

    low: int = pixels()
    high: int = pixels()

    def draw(self, size: Size, rng: np.random.Generator) -> tuple[Edit, ...]:
        height, width = size
        new_width = self._side(width, rng)
        new_height = self._side(height, rng)
        return (_random_window(size, (new_height, new_width), rng),)

    def _side(self, side: int, rng: np.random.Generator) -> int:
        high = min(side, self.high)
        return int(rng.integers(min(self.low, high), high, endpoint=True))


@dataclass(frozen=True)
class ScaleJitter:
    """Fit into (height, width), scale by a uniform factor, cut what sticks out.

    The aspect ratio stays. At a factor below 1 the image is smaller than (height, width): the
    canvas pads it.
    """

    height: int = pixels()
    width: int = pixels()
    low: float = 0.8
    high: float = 1.25

    def draw(self, size: Size, rng: np.random.Generator) -> tuple[Edit, ...]:
        factor = min(self.height / size[0], self.width / size[1]) * rng.uniform(self.low, self.high)
        scaled = tuple(max(1, round(side * factor)) for side in size)
        window = (min(scaled[0], self.height), min(scaled[1], self.width))
        crop = () if window == scaled else (_random_window(scaled, window, rng),)
        return (Resize(*scaled), *crop)


def short_side_size(size: Size, short: int, long: int | None = None) -> Size:
    """DETR's rule: (h, w) after resizing to a short side, the long one truncated and limited."""
    height, width = size
    if long is not None:
        least, most = float(min(size)), float(max(size))
        if most / least * short > long:
            short = round(long * least / most)
            if short <= 1:  # the rule ends at nothing, or far beyond the limit
                return (1, long) if height < width else (long, 1)
    if min(size) == short:
        return height, width
    if width < height:
        return int(short * height / width), short
    return short, int(short * width / height)


DETR_SHORTS = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)


@dataclass(frozen=True)
class DetrAugmentation:
    """DETR's augmentation for training: flip; then resize, or resize, crop and resize.

    Attributes:
      shorts, long: short sides to resize to, and what the long side never passes.
      crop_shorts: short sides before cropping.
      crop: the least and the greatest side of the window.
    """

    shorts: tuple[int, ...] = pixels(default=DETR_SHORTS)
    long: int | None = pixels(default=1333)
    crop_shorts: tuple[int, ...] = pixels(default=(400, 500, 600))
    crop: tuple[int, int] = pixels(default=(384, 600))

    @cached_property
    def steps(self) -> Chain:
        """What it is made of."""
        resize = RandomResize(self.shorts, self.long)
        cropped = Chain((RandomResize(self.crop_shorts), RandomCrop(*self.crop), resize))
        return Chain((RandomFlip(), Either(resize, cropped)))

    def draw(self, size: Size, rng: np.random.Generator) -> tuple[Edit, ...]:
        return self.steps.draw(size, rng)


def detr_augmentation(
    shorts: Sequence[int] = DETR_SHORTS,
    long: int = 1333,
    crop_shorts: Sequence[int] = (400, 500, 600),
    crop: tuple[int, int] = (384, 600),
) -> DetrAugmentation:
    """DETR's augmentation for training."""
    return DetrAugmentation(tuple(shorts), long, tuple(crop_shorts), crop)


def evaluation_transform(short: int = 800, long: int = 1333) -> ShortSide:
    """DETR's resize for evaluation."""
    return ShortSide(short, long)


@dataclass(frozen=True)
class SmallSetAugmentation:
    """For small data sets on one canvas: flips, and scales of 0.8 to 1.25 with a crop.

    Attributes:
      height, width: of the canvas.
      vertical: whether up and down mean nothing, as under a microscope or from the air.
    """

    height: int = pixels()
    width: int = pixels()
    vertical: bool = False

    @cached_property
    def steps(self) -> Chain:
        """What it is made of."""
        flips = (RandomFlip(), RandomFlip(axis="vertical")) if self.vertical else (RandomFlip(),)
        return Chain((*flips, ScaleJitter(self.height, self.width)))

    def draw(self, size: Size, rng: np.random.Generator) -> tuple[Edit, ...]:
        return self.steps.draw(size, rng)


def small_set_augmentation(
    height: int, width: int, *, vertical: bool = False
) -> SmallSetAugmentation:
    """`SmallSetAugmentation` of these sizes."""
    return SmallSetAugmentation(height, width, vertical)


def _random_window(size: Size, window: Size, rng: np.random.Generator) -> Crop:
    top = int(rng.integers(size[0] - window[0], endpoint=True))
    left = int(rng.integers(size[1] - window[1], endpoint=True))
    return Crop(top, left, *window)

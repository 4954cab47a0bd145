"""Prompts in a user's terms, and as the padded arrays that Segment Anything reads."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxseg.errors import UserError
from jaxseg.predict.canvas import Canvas
from jaxseg.predict.preprocess import Size
from jaxseg.structures import BACKGROUND, FOREGROUND, NOT_A_POINT, Prompts
from jaxseg.typing import Array


@dataclass(frozen=True)
class Prompt:
    """What to segment: one object, by points, a box, a mask, several of these, or nothing.

    Attributes:
      points: (n, 2), x and y in pixels of the original image.
      labels: (n,), 1 for a point of the object (foreground), 0 for one outside (background); −1 for
        no point at all, as the original fills up prompts.
      box: (4,), xyxy in pixels of the original image.
      mask: (h, w), low-resolution logits as an earlier answer has them.
    """

    points: np.ndarray | None = None
    labels: np.ndarray | None = None
    box: np.ndarray | None = None
    mask: np.ndarray | None = None

    def checked(self, size: Size | None, side: int) -> "Prompt":
        """The same as arrays.

        Args:
          size: (h, w) of the image; None leaves out whether the prompt lies on it.
          side: of masks.

        Raises:
          UserError: shapes or values that cannot be meant.
        """
        points, labels = self._checked_points(size)
        return Prompt(points, labels, self._checked_box(size), self._checked_mask(side))

    def _checked_points(self, size: Size | None):
        if self.points is None and self.labels is None:
            return None, None
        if self.points is None or self.labels is None:
            there, missing = ("labels", "points") if self.points is None else ("points", "labels")
            raise UserError(
                f"{there} came without {missing}: points (n, 2) as x, y in pixels go with labels "
                "(n,), 1 for foreground and 0 for background"
            )
        points, labels = _numbers("points", self.points), _numbers("labels", self.labels)
        if points.ndim != 2 or points.shape[1] != 2:
            raise UserError(f"points must be (n, 2), x before y; got {points.shape}")
        if len(points) == 0:
            raise UserError("points must be one or more; got none: leave points and labels out")
        if labels.shape != points.shape[:1]:
            raise UserError(
                f"{len(points)} points need labels of the shape ({len(points)},); got "
                f"{labels.shape}"
            )
        if not np.isin(labels, (FOREGROUND, BACKGROUND, NOT_A_POINT)).all():
            raise UserError(
                f"labels of points are 1 (foreground) and 0 (background), or −1 for what is no "
                f"point; got {_some(labels)}"
            )
        if size is None:
            return points, labels.astype(np.int32)
        height, width = size
        outside = ((points < 0) | (points > (width, height))).any(-1) & (labels != NOT_A_POINT)
        if outside.any():
            raise UserError(
                f"points must lie on the image, x in 0..{width} and y in 0..{height}; got "
                f"{points[outside][0].tolist()}: they are (x, y) in pixels of the original image"
            )
        return points, labels.astype(np.int32)

    def _checked_box(self, size: Size | None):
        if self.box is None:
            return None
        box = _numbers("a box", self.box)
        box = box[0] if box.shape == (1, 4) else box
        if box.shape != (4,):
            raise UserError(
                f"a box must be (4,), x0, y0, x1, y1 in pixels; got {box.shape}: give several "
                "boxes as several prompts"
            )
        if not (box[:2] < box[2:]).all():
            raise UserError(
                f"a box's first corner must be above and left of its second, as x0, y0, x1, y1; "
                f"got {box.tolist()}"
            )
        if size is None:
            return box
        height, width = size
        if not ((box[:2] < (width, height)) & (box[2:] > 0)).all():
            raise UserError(
                f"a box must overlap the image, x in 0..{width} and y in 0..{height}; got "
                f"{box.tolist()}: it is x0, y0, x1, y1 in pixels of the original image"
            )
        return box

    def _checked_mask(self, side: int):
        if self.mask is None:
            return None
        mask = _numbers("a mask", self.mask)
        mask = mask[0] if mask.ndim == 3 and len(mask) == 1 else mask
        if mask.shape != (side, side):
            hint = (
                "choose one of them"
                if mask.shape[1:] == (side, side)
                else ("masks at the image's size do not serve")
            )
            raise UserError(
                f"a mask prompt must be ({side}, {side}), the low-resolution logits of an earlier "
                f"answer; got {mask.shape}: {hint}"
            )
        return mask


def _numbers(what: str, values) -> np.ndarray:
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        raise UserError(f"{what} must be numbers; got {values!r:.80}") from None
    if not np.isfinite(array).all():
        raise UserError(f"{what} must be finite; got {_some(array[~np.isfinite(array)])}")
    return array


def _some(values: np.ndarray) -> str:
    return ", ".join(f"{value:g}" for value in np.unique(values)[:5])


def pad_prompts(prompts: Sequence[Sequence[Prompt]], sizes: Sequence[Size], canvas: Canvas):
    """`Prompts` of several images with several prompts each, filled up to common counts.

    Counts are powers of two, so that few programs serve all.

    Args:
      prompts: checked, for each image.
      sizes: (h, w) of each image.
    """
    b, p = len(prompts), _bucket(max(len(sets) for sets in prompts))
    every = [one for sets in prompts for one in sets]
    counts = [len(one.points) for one in every if one.points is not None]
    n = _bucket(max(counts, default=0))
    points, labels = np.zeros((b, p, n, 2), np.float32), np.zeros((b, p, n), np.int32)
    points_mask = np.zeros((b, p, n), bool)
    boxes, boxes_mask = np.zeros((b, p, 4), np.float32), np.zeros((b, p), bool)
    side = canvas.low
    with_masks = any(one.mask is not None for one in every)
    masks = np.zeros((b, p, side, side) if with_masks else 0, np.float32)
    masks_mask = np.zeros((b, p), bool)
    for i, (sets, size) in enumerate(zip(prompts, sizes, strict=True)):
        for j, one in enumerate(sets):
            if one.points is not None:
                count = len(one.points)
                points[i, j, :count] = canvas.points(one.points, size)
                labels[i, j, :count] = one.labels
                points_mask[i, j, :count] = True
            if one.box is not None:
                boxes[i, j], boxes_mask[i, j] = canvas.boxes(one.box, size), True
            if one.mask is not None:
                masks[i, j], masks_mask[i, j] = one.mask, True
    given: dict[str, Array] = {"points": points, "labels": labels, "points_mask": points_mask}
    given |= {"boxes": boxes, "boxes_mask": boxes_mask} if boxes_mask.any() else {}
    given |= {"masks": masks, "masks_mask": masks_mask} if with_masks else {}
    return Prompts(**given)


def _bucket(count: int) -> int:
    """The next power of two; 0 stays."""
    return count and 1 << (count - 1).bit_length()

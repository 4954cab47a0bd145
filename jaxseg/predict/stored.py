"""From upright images, which predictors see, to pixels as files store them."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image

from jaxseg.data.images import orientation
from jaxseg.predict.result import Prediction

Found = TypeVar("Found", bound=Prediction)


class Turn(NamedTuple):
    """How to go from an upright image to the stored one: axes first, then the new ones reversed."""

    swap: bool
    flip_x: bool
    flip_y: bool


# By EXIF orientation; 1 is upright.
TURNS = {
    2: Turn(False, True, False),
    3: Turn(False, True, True),
    4: Turn(False, False, True),
    5: Turn(True, False, False),
    6: Turn(True, False, True),
    7: Turn(True, True, True),
    8: Turn(True, True, False),
}


def turn_of(path: Path) -> Turn | None:
    """How an image file is stored; None where it is upright."""
    with Image.open(path) as image:
        return TURNS.get(orientation(image))


def as_stored(found: Found, turn: Turn) -> Found:
    """A prediction of an upright image, in pixels of the stored one."""
    boxes, masks, size = found.boxes, found.masks, found.size
    if turn.swap:
        boxes, size = boxes[:, [1, 0, 3, 2]], size[::-1]
        masks = None if masks is None else masks.swapaxes(1, 2)
    for axis, flip in enumerate((turn.flip_x, turn.flip_y)):
        if flip:
            boxes = boxes.copy()
            boxes[:, [axis, axis + 2]] = size[1 - axis] - boxes[:, [axis + 2, axis]]
            masks = None if masks is None else np.flip(masks, 2 - axis)
    return replace(found, boxes=boxes, masks=masks, size=size)

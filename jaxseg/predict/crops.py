"""Where automatic masks are asked for (arXiv 2304.02643, section B): grids of points on an image,
and on overlapping crops of it.
"""

import math
from typing import NamedTuple

import numpy as np

from jaxseg.predict.preprocess import Size

# Pixels within which a box is at a border.
NEAR = 20.0


class Crop(NamedTuple):
    """A part of an image.

    Attributes:
      box: xyxy in the image.
      layer: 0 is the whole image; layer i has (2^i)² crops.
    """

    box: tuple[int, int, int, int]
    layer: int

    @property
    def size(self) -> Size:
        """(h, w)."""
        left, top, right, bottom = self.box
        return bottom - top, right - left

    @property
    def area(self) -> int:
        """Pixels."""
        height, width = self.size
        return height * width

    def cut(self, image: np.ndarray) -> np.ndarray:
        """This part of an image (h, w, …)."""
        left, top, right, bottom = self.box
        return image[top:bottom, left:right]

    def uncrop(self, xy: np.ndarray) -> np.ndarray:
        """Points (…, 2), or boxes (…, 4), of the crop in the image."""
        return xy + np.asarray(self.box[:2] * (np.shape(xy)[-1] // 2))

    def uncrop_mask(self, mask: np.ndarray, size: Size) -> np.ndarray:
        """Masks (…, h, w) of the crop in an image of (h, w), false elsewhere."""
        left, top, right, bottom = self.box
        whole = np.zeros((*mask.shape[:-2], *size), mask.dtype)
        whole[..., top:bottom, left:right] = mask
        return whole


def make_crops(size: Size, layers: int, overlap_ratio: float) -> list[Crop]:
    """The image and the crops of `layers` more layers, the left ones first.

    Images of a few pixels have fewer: a crop without a pixel is none.

    Args:
      size: (h, w) of the image.
      overlap_ratio: of the image's short side, that crops of layer 1 share; half in each layer.
    """
    height, width = size
    crops = [Crop((0, 0, width, height), 0)]
    for layer in range(1, layers + 1):
        count = 2**layer
        overlap = int(overlap_ratio * min(size) * (2 / count))
        high, wide = (math.ceil((overlap * (count - 1) + n) / count) for n in size)
        tops, lefts = (
            [int((length - overlap) * i) for i in range(count)] for length in (high, wide)
        )
        crops += [
            Crop((left, top, min(left + wide, width), min(top + high, height)), layer)
            for left in lefts
            for top in tops
        ]
    return [crop for crop in crops if min(crop.size) > 0]


def point_grid(side: int) -> np.ndarray:
    """side² points (x, y) in the middle of equal cells of [0, 1]², row by row."""
    if side < 1:
        return np.zeros((0, 2))
    places = np.linspace(1 / (2 * side), 1 - 1 / (2 * side), side)
    return np.stack(np.meshgrid(places, places), -1).reshape(-1, 2)


def point_grids(side: int, layers: int, downscale: int) -> list[np.ndarray]:
    """A grid for each layer of crops; `downscale` times fewer points to a side in each."""
    return [point_grid(int(side / downscale**layer)) for layer in range(layers + 1)]


def near_crop_edge(boxes, crop_box, image_box, tolerance: float = NEAR):
    """Whether boxes end at a border of the crop that is no border of the image.

    Such a mask is cut off, and another crop has all of it.

    Args:
      boxes: xyxy (n, 4) in the crop; NumPy's or JAX's.
      crop_box, image_box: xyxy in the image.
    """
    left, top = crop_box[0], crop_box[1]
    shift = (left, top, left, top)
    near = False
    for side in range(4):
        place = boxes[..., side] + shift[side]
        at_crop = abs(place - crop_box[side]) <= tolerance
        near = near | (at_crop & ~(abs(place - image_box[side]) <= tolerance))
    return near

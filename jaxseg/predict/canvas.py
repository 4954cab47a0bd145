"""The square canvas that images of Segment Anything lie on, and the ways there and back."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from jaxseg.errors import UserError
from jaxseg.ops.masks import bilinear_matrix
from jaxseg.predict import preprocess
from jaxseg.predict.preprocess import Size
from jaxseg.structures import Images


@dataclass(frozen=True)
class Canvas:
    """A square; images are brought to its long side, at the top left.

    Attributes:
      side: pixels of a side.
      low: mask logits of a side.
    """

    side: int = 1024
    low: int = 256

    def resized_size(self, size: Size) -> Size:
        """(h, w) of an image on the canvas; halves are rounded up.

        Raises:
          UserError: the image is so narrow that nothing of it would be left.
        """
        scale = self.side / max(size)
        height, width = (int(side * scale + 0.5) for side in size)
        if min(height, width) == 0:
            raise UserError(
                f"an image of {size[0]} × {size[1]} (h × w) is too narrow: its short side would be "
                f"less than half a pixel where the long one is {self.side}; cut it up"
            )
        return height, width

    def resize(self, image: np.ndarray) -> np.ndarray:
        """uint8 (h, w, 3) at the size it has on the canvas, with Pillow's antialiased filter."""
        return preprocess.resize(image, self.resized_size(image.shape[:2]))

    def place(self, resized: Sequence[np.ndarray]) -> Images:
        """Resized images as a batch of uint8 canvases."""
        return preprocess.put_on_canvas(resized, (self.side, self.side))

    def points(self, xy: np.ndarray, size: Size) -> np.ndarray:
        """Points (…, 2) of an original image of (h, w), on the canvas, in float64."""
        height, width = self.resized_size(size)
        # Both axes are rounded on their own, so their factors may differ.
        return np.asarray(xy, np.float64) * (width / size[1], height / size[0])

    def boxes(self, boxes: np.ndarray, size: Size) -> np.ndarray:
        """The same for boxes (…, 4) as xyxy."""
        corners = np.asarray(boxes, np.float64).reshape(*np.shape(boxes)[:-1], 2, 2)
        return self.points(corners, size).reshape(np.shape(boxes))

    def original(self, logits, size: Size) -> np.ndarray:
        """Logits (…, h, w) of whole canvases at an original size (h, w), in float32.

        They are resized to the canvas, cut to the image, and resized to it: two bilinear steps,
        which are one product along each axis.
        """
        rows, columns = self.matrices(size, np.shape(logits)[-2:])
        return np.matmul(rows, np.matmul(np.asarray(logits, np.float32), columns.T))

    def matrices(self, size: Size, low: Size) -> tuple[np.ndarray, np.ndarray]:
        """What turns logits of `low` rows and columns into rows and columns of an original size."""
        return tuple(
            _both_steps(n, self.side, kept, wanted)
            for n, kept, wanted in zip(low, self.resized_size(size), size, strict=True)
        )


@lru_cache(maxsize=64)
def _both_steps(low: int, side: int, kept: int, wanted: int) -> np.ndarray:
    up, back = (np.asarray(bilinear_matrix(*x), np.float64) for x in ((low, side), (kept, wanted)))
    return (back @ up[:kept]).astype(np.float32)

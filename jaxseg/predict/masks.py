"""The masks of a detector's queries, on their way from the device to a file's own pixels."""

from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from flax import linen as nn

from jaxseg.models.detr.segments import (
    THRESHOLD,
    Segments,
    Size,
    instance_masks,
    own_part,
    panoptic_segments,
)
from jaxseg.structures import DetectorOutput
from jaxseg.typing import Array, Float


class QueryMasks(NamedTuple):
    """What the device tells about the masks of b images.

    Attributes:
      logits: of the masks, on the canvas at stride 4.
      class_logits: of the last layer.
    """

    logits: Float[Array, "b q h w"]
    class_logits: Float[Array, "b q k"]


def predicts_masks(model: nn.Module) -> bool:
    """Whether a detector draws masks."""
    return hasattr(model, "mask_logits")


def query_masks(model: nn.Module, output: DetectorOutput) -> QueryMasks | None:
    """The masks in a detector's output, if it draws any."""
    if not predicts_masks(model):
        return None
    return QueryMasks(model.mask_logits(output), output.logits[-1])


@dataclass(frozen=True)
class ImageMasks:
    """The same of one image, on the host.

    Attributes:
      logits, class_logits: (q, h, w) and (q, k).
      covers: pixels (h, w) of the canvas that the logits stand for.
      size: of the image on the canvas.
      original: of its file.
    """

    logits: np.ndarray
    class_logits: np.ndarray
    covers: Size
    size: Size
    original: Size

    @classmethod
    def of(
        cls, masks: QueryMasks, row: int, canvas: Size, size: Size, original: Size, exact: bool
    ) -> Self:
        """Those of one row; on an exact canvas the image is taken alone."""
        logits, classes = np.asarray(masks.logits[row]), np.asarray(masks.class_logits[row])
        if exact:
            return cls(own_part(logits, canvas, size), classes, size, size, original)
        return cls(logits, classes, canvas, size, original)

    def instances(self, queries: np.ndarray) -> np.ndarray:
        """Masks of some queries, bool (n, h, w) of the file's size."""
        return instance_masks(self.logits[queries], self.covers, self.size, self.original)

    def panoptic(self, things: tuple[bool | None, ...], threshold: float = THRESHOLD) -> Segments:
        """A partition of the file's pixels; see `panoptic_segments`."""
        frame = (self.covers, self.size, self.original)
        return panoptic_segments(self.class_logits, self.logits, *frame, things, threshold)

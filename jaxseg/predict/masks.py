"""The masks of a detector's queries, on their way from the device to a file's own pixels."""

import warnings
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
from jaxseg.predict.result import NotFinite, warn_not_finite
from jaxseg.structures import DetectorOutput
from jaxseg.typing import Array, Float

_OUTSIDE = np.float32(-100)  # a logit


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
      finite: (q,), whether all of a query's logits came so; a mask that did not is empty.
      covers: pixels (h, w) of the canvas that the logits stand for.
      size: of the image on the canvas.
      original: of its file.
    """

    logits: np.ndarray
    class_logits: np.ndarray
    finite: np.ndarray
    covers: Size
    size: Size
    original: Size

    @classmethod
    def of(
        cls, masks: QueryMasks, row: int, canvas: Size, size: Size, original: Size, exact: bool
    ) -> Self:
        """Those of one row; on an exact canvas the image is taken alone.

        Warns of masks that are not finite.
        """
        logits, classes = np.asarray(masks.logits[row]), np.asarray(masks.class_logits[row])
        if exact:
            logits, canvas = own_part(logits, canvas, size), size
        drawn = np.isfinite(logits).all((1, 2))
        if not drawn.all():
            _warn(drawn)
            logits = np.where(drawn[:, None, None], logits, _OUTSIDE)
        return cls(logits, classes, drawn & np.isfinite(classes).all(-1), canvas, size, original)

    def instances(self, queries: np.ndarray) -> np.ndarray:
        """Masks of some queries, bool (n, h, w) of the file's size."""
        return instance_masks(self.logits[queries], self.covers, self.size, self.original)

    def panoptic(self, things: tuple[bool | None, ...], threshold: float = THRESHOLD) -> Segments:
        """A partition of the file's pixels; see `panoptic_segments`.

        Queries that are not finite take no part, with a warning.
        """
        classes = self.class_logits
        if not self.finite.all():
            warn_not_finite(self.finite)
            no_object = np.append(np.full(classes.shape[1] - 1, -np.inf, np.float32), 0)
            classes = np.where(self.finite[:, None], classes, no_object)
        frame = (self.covers, self.size, self.original)
        return panoptic_segments(classes, self.logits, *frame, things, threshold)


def _warn(drawn: np.ndarray) -> None:
    warnings.warn(
        f"the masks of {np.count_nonzero(~drawn)} of {drawn.size} queries are not finite and stay "
        "empty: the weights are damaged or their training diverged (`jaxseg verify` checks them)",
        NotFinite,
        stacklevel=3,
    )

"""What was found in one image, in the user's terms."""

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxseg.data.segmentation import encode_mask
from jaxseg.errors import UserError
from jaxseg.program import install_line

if TYPE_CHECKING:
    import supervision


class NotFinite(UserWarning):
    """A model answered with NaN or infinity."""


@contextmanager
def refuse_not_finite(weights: object) -> Iterator[None]:
    """Make `NotFinite` an error that names the weights, for commands.

    Raises:
      UserError: the model answered with numbers that are not finite.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", NotFinite)
        try:
            yield
        except NotFinite as error:
            raise UserError(f"{weights}: {error}") from error


def warn_not_finite(finite: np.ndarray) -> None:
    """Warn unless all of some detections are finite; the others cannot be used."""
    if not finite.all():
        warnings.warn(
            f"{np.count_nonzero(~finite)} of {finite.size} detections are not finite and are left "
            "out: the weights are damaged or their training diverged (`jaxseg verify` checks them)",
            NotFinite,
            stacklevel=3,
        )


@dataclass(frozen=True)
class Prediction:
    """The objects of one image, the surest first (n of them).

    Attributes:
      boxes: float32 (n, 4), xyxy in pixels of the upright image; they may reach beyond it.
      scores: float32 (n,) in [0, 1].
      labels: int32 (n,), class indices as the model numbers them.
      names: the class of each object in words.
      size: (h, w) of the image.
      masks: bool (n, h, w), of models that draw them.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]
    size: tuple[int, int]
    masks: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def clipped(self) -> np.ndarray:
        """Boxes cut off at the image's border, float32 (n, 4)."""
        height, width = self.size
        return np.clip(self.boxes, 0, np.asarray([width, height, width, height], np.float32))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: width, height, and objects with name, label, score and box.

        Masks are run lengths in COCO's form, under "segmentation".
        """
        height, width = self.size
        objects = [
            {
                "name": name,
                "label": int(label),
                "score": round(float(score), 5),
                "box": [round(float(x), 2) for x in box],
            }
            for name, label, score, box in zip(
                self.names, self.labels, self.scores, self.boxes, strict=True
            )
        ]
        for record, segmentation in zip(objects, self.segmentations(), strict=False):
            record["segmentation"] = segmentation
        return {"width": width, "height": height, "objects": objects}

    def segmentations(self) -> list[dict[str, Any]]:
        """The masks as COCO's run lengths; none at all of a model that draws no masks."""
        return [encode_mask(mask) for mask in (() if self.masks is None else self.masks)]

    def to_json(self) -> str:
        """`to_dict` as text."""
        return json.dumps(self.to_dict())

    def to_supervision(self) -> "supervision.Detections":
        """As `supervision.Detections`, class names under `data["class_name"]`.

        Raises:
          ImportError: supervision is not installed.
        """
        try:
            import supervision
        except ImportError as error:
            raise ImportError(
                f"to_supervision needs the supervision package: {install_line('supervision')}"
            ) from error
        return supervision.Detections(
            xyxy=self.boxes,
            mask=self.masks,
            confidence=self.scores,
            class_id=self.labels.astype(int),
            data={"class_name": np.asarray(self.names, dtype=str)},
        )


def best_first(
    boxes: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    *,
    names: Sequence[str | None],
    size: tuple[int, int],
    threshold: float,
    masks_of: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Prediction:
    """The detections of one image of at least `threshold`, sorted; labels named None are left out.

    So are those that are not finite, with a warning.

    Args:
      boxes, scores, labels: (q, 4), (q,), (q,).
      names: of each label.
      masks_of: draws the masks of those that are kept, given their positions.
    """
    finite = np.isfinite(boxes).all(-1) & np.isfinite(scores)
    warn_not_finite(finite)
    named = np.asarray([name is not None for name in names])
    keep = np.flatnonzero((scores >= threshold) & named[labels] & finite)
    keep = keep[np.argsort(-scores[keep], kind="stable")]
    return Prediction(
        boxes=boxes[keep],
        scores=scores[keep],
        labels=labels[keep],
        names=tuple(names[label] for label in labels[keep]),
        size=size,
        masks=None if masks_of is None else masks_of(keep),
    )


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON so that a file of this name is whole or not there; its folder is made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(path)

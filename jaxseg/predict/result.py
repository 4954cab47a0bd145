"""What was found in one image, in the user's terms."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import supervision


@dataclass(frozen=True)
class Prediction:
    """The objects of one image, the surest first (n of them).

    Attributes:
      boxes: float32 (n, 4), xyxy in pixels of the upright image; they may reach beyond it.
      scores: float32 (n,) in [0, 1].
      labels: int32 (n,), class indices as the model numbers them.
      names: the class of each object in words.
      size: (h, w) of the image.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.scores)

    def clipped(self) -> np.ndarray:
        """Boxes cut off at the image's border, float32 (n, 4)."""
        height, width = self.size
        return np.clip(self.boxes, 0, np.asarray([width, height, width, height], np.float32))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: width, height, and objects with name, label, score and box."""
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
        return {"width": width, "height": height, "objects": objects}

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
                "to_supervision needs the supervision package: pip install 'jaxseg[supervision]'"
            ) from error
        return supervision.Detections(
            xyxy=self.boxes,
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
) -> Prediction:
    """The detections of one image of at least `threshold`, sorted; labels named None are left out.

    Args:
      boxes, scores, labels: (q, 4), (q,), (q,).
      names: of each label.
    """
    named = np.asarray([name is not None for name in names])
    keep = np.flatnonzero((scores >= threshold) & named[labels])
    keep = keep[np.argsort(-scores[keep], kind="stable")]
    return Prediction(
        boxes=boxes[keep],
        scores=scores[keep],
        labels=labels[keep],
        names=tuple(names[label] for label in labels[keep]),
        size=size,
    )


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON so that a file of this name is whole or not there."""
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(path)

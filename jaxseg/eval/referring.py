"""Referring expressions: how often the best boxes of an expression are what it means."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxseg.errors import UserError

RANKS = (1, 5, 10)
METRICS = tuple(f"accuracy_{rank}" for rank in RANKS)
OVERLAP = 0.5


@dataclass(frozen=True)
class ReferringTable:
    """What share of the expressions was found.

    Attributes:
      stats: "accuracy_1", "accuracy_5" and "accuracy_10": by the best box, or one of the best
        five or ten.
      per_class: empty; expressions have no classes.
    """

    stats: dict[str, float]
    per_class: dict[str, dict[str, float]] = field(default_factory=dict)

    def metrics(self) -> dict[str, float]:
        """One flat dict for logs."""
        return dict(self.stats)

    def __str__(self) -> str:
        from jaxseg.eval.table import render_referring

        return render_referring(self)


def referring_table(
    ground_truth: Mapping[str, Any],
    records: Sequence[dict],
    iou_type: str = "bbox",
    image_ids: Collection | None = None,
) -> ReferringTable:
    """Compare detections with the one box of each image.

    A box is right if its IoU is 0.5 or more. Of equal scores the earlier record is the better.

    Args:
      ground_truth: images and annotations in COCO's form.
      records: detections in COCO's form.
      iou_type: "bbox".
      image_ids: judge these images only; one without detections counts as a miss.

    Raises:
      UserError: no images, or one that has not one box.
    """
    del iou_type
    known = [image["id"] for image in ground_truth["images"]]
    chosen = known if image_ids is None else [i for i in known if i in set(image_ids)]
    if not chosen:
        raise UserError("the data set has no images: there is nothing to evaluate")
    boxes: dict = {image: [] for image in chosen}
    for annotation in ground_truth["annotations"]:
        boxes.get(annotation["image_id"], []).append(annotation["bbox"])
    found: dict = {image: [] for image in chosen}
    for record in records:
        found.get(record["image_id"], []).append(record)
    places = np.asarray([_place(image, boxes[image], found[image]) for image in chosen])
    shares = [float((places < rank).mean()) for rank in RANKS]
    return ReferringTable(dict(zip(METRICS, shares, strict=True)))


def _place(image, boxes: Sequence, records: Sequence[dict]) -> float:
    """Where among the detections the first right one stands."""
    if len(boxes) != 1:
        raise UserError(f"the image {image!r} has {len(boxes) or 'no'} boxes; it must have one")
    ordered = sorted(records, key=lambda record: -record["score"])
    right = (i for i, record in enumerate(ordered) if _iou(record["bbox"], boxes[0]) >= OVERLAP)
    return next(right, np.inf)


def _iou(box: Sequence[float], other: Sequence[float]) -> float:
    """Of two boxes (x, y, width, height)."""
    sides = [
        max(0.0, min(box[i] + box[i + 2], other[i] + other[i + 2]) - max(box[i], other[i]))
        for i in (0, 1)
    ]
    common = sides[0] * sides[1]
    union = box[2] * box[3] + other[2] * other[3] - common
    return common / union if union > 0 else 0.0

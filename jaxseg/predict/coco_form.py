"""Predictions in the form in which COCO's tools exchange results."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jaxseg.errors import UserError

if TYPE_CHECKING:
    from jaxseg.predict.result import Prediction


def image_id(path: Path) -> int | str:
    """The number in a file's name, else the name."""
    return int(path.stem) if path.stem.isdecimal() else path.name


def check_image_ids(option: str, paths: Sequence[Path]) -> None:
    """Refuse images that COCO's form could not tell apart.

    Raises:
      UserError: two of them have one id.
    """
    seen: dict[int | str, Path] = {}
    for path in paths:
        first = seen.setdefault(image_id(path), path)
        if first != path:
            raise UserError(
                f"{option} would give {first} and {path} one image_id, {image_id(path)!r}: rename "
                "one, or predict them in two runs"
            )


def coco_form(path: Path, prediction: "Prediction", category_ids: Sequence | None) -> list[dict]:
    """COCO records of one image; boxes and masks are in pixels of the upright image.

    Without `category_ids`, a label is its own category.
    """
    records = [
        {
            "image_id": image_id(path),
            "category_id": int(label) if category_ids is None else category_ids[label],
            "bbox": [round(float(x), 3) for x in (*box[:2], *(box[2:] - box[:2]))],
            "score": float(score),
        }
        for box, score, label in zip(
            prediction.boxes, prediction.scores, prediction.labels, strict=True
        )
    ]
    for record, segmentation in zip(records, prediction.segmentations(), strict=False):
        record["segmentation"] = segmentation
    return records

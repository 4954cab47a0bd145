"""LVIS's fixed average precision (Dave et al. 2021, arXiv 2102.01066).

Of each class the 10,000 best detections of the whole data set are judged, however many lie in one
image. An image says of some classes alone whether they are in it: those that are annotated and
those of its `neg_category_ids`. Detections of other classes count for nothing, and neither do
those without a match whose class is in its `not_exhaustive_category_ids`.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxseg.errors import UserError
from jaxseg.eval.categories import distinct_names
from jaxseg.eval.coco_ap import (
    CocoTable,
    IouType,
    Record,
    check_records,
    engine_records,
    engine_truth_of,
    image_numbers,
    mean_of,
    silent,
)
from jaxseg.eval.fixed import LIMIT, BestScores, best_records

FREQUENCIES = {"r": "rare", "c": "common", "f": "frequent"}
AREAS = ("all", "small", "medium", "large")  # as the engine orders them
METRICS = (
    "AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "APr", "APc", "APf",
)  # fmt: skip
# Classes that are judged at a time: the engine has a record of each pair of image and class.
CLASSES = 64


@dataclass(frozen=True)
class LvisTable(CocoTable):
    """The nine numbers and those of each class, in [0, 1]; NaN where nothing was annotated.

    Attributes:
      iou_type, stats, per_class: as in `CocoTable`, `METRICS` by name; classes have their
        "frequency" too.
    """

    def __str__(self) -> str:
        from jaxseg.eval.table import render_lvis

        return render_lvis(self)


def is_lvis(ground_truth: Mapping[str, Any]) -> bool:
    """Whether a ground truth is in LVIS's form: classes have a frequency, images absent classes."""
    return any("frequency" in c for c in ground_truth["categories"]) and any(
        "neg_category_ids" in image for image in ground_truth["images"]
    )


def lvis_table(
    ground_truth: Mapping[str, Any],
    records: Sequence[Record],
    iou_type: IouType = "bbox",
    image_ids: Collection | None = None,
    limit: int = LIMIT,
) -> LvisTable:
    """Compare detections with the ground truth.

    Args:
      ground_truth: as in LVIS's files; it is not changed.
      records, iou_type, image_ids: as for `coco_ap.coco_table`.
      limit: detections of each class; those that tie with the last one are judged too.

    Raises:
      UserError: the ground truth has no images, a record names an unknown image or category, or a
        category has no frequency.
    """
    images = image_numbers(ground_truth, image_ids)
    check_records(records, ground_truth)
    records = [r for r in records if r["image_id"] in images]
    best = BestScores(limit)
    best.add([r["category_id"] for r in records], [r["score"] for r in records])
    truth = _truth(ground_truth, images, iou_type)
    results = engine_records(best_records(records, best.least()), images, iou_type)
    categories = sorted(ground_truth["categories"], key=lambda category: category["id"])
    curves = _curves(truth, results, iou_type, [category["id"] for category in categories])
    frequencies = np.asarray([category["frequency"] for category in categories])
    names = distinct_names(ground_truth["categories"])
    objects = Counter(annotation["category_id"] for annotation in truth["annotations"])
    per_class = {
        names[category["id"]]: {
            "AP": mean_of(own[..., 0]),
            "AP50": mean_of(own[0, :, 0]),
            "objects": objects[category["id"]],
            "frequency": category["frequency"],
        }
        for category, own in zip(categories, np.moveaxis(curves, 2, 0), strict=True)
    }
    return LvisTable(iou_type, _stats(curves, frequencies), per_class)


def _stats(curves: np.ndarray, frequencies: np.ndarray) -> dict[str, float]:
    every = curves[..., 0]
    return {
        "AP": mean_of(every),
        "AP50": mean_of(every[0]),
        "AP75": mean_of(every[5]),
        **{f"AP_{area}": mean_of(curves[..., i]) for i, area in enumerate(AREAS) if i},
        **{f"AP{f}": mean_of(every[:, :, frequencies == f]) for f in FREQUENCIES},
    }


def _truth(ground_truth: Mapping, images: Mapping, iou_type: IouType) -> dict:
    """The engine's ground truth with what LVIS adds."""
    truth = engine_truth_of(ground_truth, images, iou_type)
    own = [image for image in ground_truth["images"] if image["id"] in images]
    for image, source in zip(truth["images"], own, strict=True):
        for key in ("neg_category_ids", "not_exhaustive_category_ids"):
            image[key] = list(source.get(key) or ())
    for category, source in zip(truth["categories"], ground_truth["categories"], strict=True):
        category["frequency"] = source.get("frequency")
        if category["frequency"] not in FREQUENCIES:
            raise UserError(
                f"the category {category['name']!r} has the frequency {category['frequency']!r}: "
                'LVIS has "r", "c" and "f" for rare, common and frequent; correct it'
            )
    return truth


def _curves(truth: dict, results: list, iou_type: IouType, category_ids: list) -> np.ndarray:
    """Precision by IoU threshold, recall, class and area range; -1 where there are no objects."""
    from faster_coco_eval import COCO, COCOeval_faster

    engine_truth = COCO(truth)
    engine = COCOeval_faster(
        engine_truth,
        engine_truth.loadRes(results),
        iou_type,
        print_function=silent,
        lvis_style=True,
    )
    engine.params.maxDets = [max(1, len(results))]  # of a class in one image: no limit
    parts = []
    for start in range(0, len(category_ids), CLASSES):
        engine.params.catIds = category_ids[start : start + CLASSES]
        engine.evaluate()
        parts.append(engine.eval["precision"][..., -1])
    return np.concatenate(parts, 2)

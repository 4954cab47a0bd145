"""COCO's average precision: records of detections against a ground truth in COCO's JSON form.

The engine is faster-coco-eval, which reproduces pycocotools to the last digits. It sees a copy of
its input with its own image and annotation numbers, because it marks "unmatched" with annotation
id 0 and turns image ids into integers, and our sources may use either.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from jaxseg.data.coco_json import is_crowd, stated_area
from jaxseg.data.segmentation import drawable
from jaxseg.errors import UserError
from jaxseg.eval.categories import distinct_names, name_of

IouType = Literal["bbox", "segm"]
Record = dict[str, Any]

METRICS = (
    "AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large",
    "AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large",
)  # fmt: skip


@dataclass(frozen=True)
class CocoTable:
    """The twelve numbers and those of each class, in [0, 1]; NaN where nothing was annotated.

    Attributes:
      iou_type: "bbox" or "segm".
      stats: `METRICS` by name, over all classes.
      per_class: category name (see `distinct_names`) to its "AP", "AP50" and "objects" (annotated,
        without crowds).
    """

    iou_type: IouType
    stats: dict[str, float]
    per_class: dict[str, dict[str, float]]

    def metrics(self) -> dict[str, float]:
        """One flat dict for logs: `METRICS`, then "AP/<class>" for each class."""
        return self.stats | {f"AP/{name}": row["AP"] for name, row in self.per_class.items()}

    def __str__(self) -> str:
        from jaxseg.eval.table import render

        return render(self)


def coco_table(
    ground_truth: Mapping[str, Any],
    records: Sequence[Record],
    iou_type: IouType = "bbox",
    image_ids: Collection | None = None,
) -> CocoTable:
    """Compare detections with the ground truth.

    Args:
      ground_truth: "images", "annotations" and "categories" as in COCO's files; it is not changed.
      records: detections in COCO's form of results (see `results.coco_records`), ids as in the
        ground truth; none at all is fine.
      iou_type: overlap of "bbox" or of "segm" (RLE masks).
      image_ids: judge these images only; images without detections count as misses.

    Raises:
      UserError: the ground truth has no images, or a record names an unknown image or category.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    images = image_numbers(ground_truth, image_ids)
    check_records(records, ground_truth)
    truth = engine_truth_of(ground_truth, images, iou_type)
    engine_truth = COCO(truth)
    engine = COCOeval_faster(
        engine_truth,
        engine_truth.loadRes(engine_records(records, images, iou_type)),
        iou_type,
        print_function=silent,
    )
    engine.run()
    names = distinct_names(ground_truth["categories"])
    classes = [(category, names[category]) for category in engine.params.catIds]
    return CocoTable(
        iou_type=iou_type,
        stats={name: _number(value) for name, value in zip(METRICS, engine.stats, strict=False)},
        per_class=_per_class(engine.eval["precision"], classes, truth["annotations"]),
    )


def silent(*_) -> None:
    """What the engine prints with."""


def _number(value: float) -> float:
    return float("nan") if value < 0 else float(value)


def image_numbers(ground_truth: Mapping, image_ids: Collection | None) -> dict:
    """The engine's number of each image that is judged.

    Raises:
      UserError: the ground truth has no images.
    """
    # Numbers follow the order of the ids: ties between scores are broken by it.
    known = {image["id"] for image in ground_truth["images"]}
    if not known:
        raise UserError("the data set has no images: there is nothing to evaluate")
    chosen = known if image_ids is None else known & set(image_ids)
    ordered = sorted(chosen, key=lambda key: (isinstance(key, str), key))
    return {image: number for number, image in enumerate(ordered, 1)}


def check_records(records: Sequence[Record], ground_truth: Mapping) -> None:
    """Raise `UserError` if a record names an unknown image or category."""
    allowed = {
        "image_id": {image["id"] for image in ground_truth["images"]},
        "category_id": {category["id"] for category in ground_truth["categories"]},
    }
    for key, known in allowed.items():
        unknown = {record[key] for record in records} - known
        if unknown:
            some = ", ".join(map(repr, sorted(unknown, key=str)[:5]))
            raise UserError(
                f"detections name {key} {some}, which the ground truth does not have: evaluate "
                "them on the data set, and with the class numbering, that they were made for"
            )


def engine_truth_of(ground_truth: Mapping, images: Mapping, iou_type: IouType) -> dict:
    """The ground truth of some images, by the engine's numbers."""
    annotations = [a for a in ground_truth["annotations"] if a["image_id"] in images]
    return {
        "images": [
            {"id": images[image["id"]], **_size(image, iou_type)}
            for image in ground_truth["images"]
            if image["id"] in images
        ],
        "categories": [{"id": c["id"], "name": name_of(c)} for c in ground_truth["categories"]],
        "annotations": [
            {
                "id": number,
                "image_id": images[annotation["image_id"]],
                "category_id": annotation["category_id"],
                "area": stated_area(annotation),
                "iscrowd": int(is_crowd(annotation)),
                **_geometry(annotation, iou_type),
            }
            for number, annotation in enumerate(annotations, 1)
        ],
    }


def _geometry(annotation: Mapping, iou_type: IouType) -> dict:
    if iou_type == "bbox":
        return {"bbox": annotation["bbox"]}
    return {"segmentation": drawable(annotation["segmentation"])}


def _size(image: Mapping, iou_type: IouType) -> dict[str, int]:
    # Boxes are compared without it, and not every file states it.
    size = {key: image[key] for key in ("height", "width") if image.get(key) is not None}
    if iou_type == "segm" and len(size) < 2:
        raise UserError(
            f"the image {image['id']!r} has no height and width in the ground truth: masks cannot "
            "be compared without; add them"
        )
    return size


def engine_records(records: Sequence[Record], images: Mapping, iou_type: IouType) -> list[Record]:
    """The detections in some images, by the engine's numbers."""
    # With a box beside the mask, the engine would sort detections into area ranges by the box.
    geometry = "segmentation" if iou_type == "segm" else "bbox"
    return [
        {
            "image_id": images[record["image_id"]],
            "category_id": record["category_id"],
            "score": record["score"],
            geometry: record[geometry],
        }
        for record in records
        if record["image_id"] in images
    ]


def _per_class(precision: np.ndarray, classes: list, annotations: list[Record]) -> dict:
    # precision: IoU threshold, recall, class, area range (0 is all), number of detections (-1: 100)
    objects = Counter(a["category_id"] for a in annotations if not a["iscrowd"])
    rows = {}
    for k, (category, name) in enumerate(classes):
        curves = precision[:, :, k, 0, -1]
        rows[name] = {
            "AP": mean_of(curves),
            "AP50": mean_of(curves[0]),
            "objects": objects[category],
        }
    return rows


def mean_of(values: np.ndarray) -> float:
    """Of the engine's curves, where -1 stands for no objects; NaN if it does everywhere."""
    values = values[values > -1]
    return float(values.mean()) if values.size else float("nan")

"""From arrays of detections to the records that COCO's tools exchange as JSON."""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor

import numpy as np

from jaxseg.data.segmentation import encode_mask
from jaxseg.predict.result import warn_not_finite
from jaxseg.structures import Detections


def coco_records(
    detections: Detections,
    image_ids: Sequence,
    category_ids: Sequence[int | None],
    sizes: np.ndarray | None = None,
    mask_of: Callable[[int, int], np.ndarray] | None = None,
    pool: Executor | None = None,
) -> list[dict]:
    """One record {image_id, category_id, bbox, score[, segmentation]} per detection.

    Args:
      detections: of b images, boxes xyxy in pixels of the original images.
      image_ids: b ids as the data set writes them.
      category_ids: the data set's id of each label of the model (`Classes.category_ids`); a
        detection of a label whose id is None, or past the end, is left out.
      sizes: (b, 2) height and width of each image, to cut masks out of their common canvas; None
        if the canvas is the image.
      mask_of: (row, detection) to its mask (h, w), where `detections` hold none: all masks of a
        large image at once would take gigabytes.
      pool: whose threads draw and encode the masks; the records are the same.

    Boxes become xywh in pixels, rounded to a thousandth: float32 corners are not exact beyond
    that, and their noise would move overlaps that lie on a threshold (COCO's published example
    has such). Masks become compressed RLE. Detections that are not finite are left
    out with a warning: JSON cannot hold them, and no object can match them.
    """
    boxes = np.asarray(detections.boxes, np.float64)
    scores = np.asarray(detections.scores, np.float64)
    labels = np.asarray(detections.labels)
    masks = None if detections.masks is None else np.asarray(detections.masks)
    finite = np.isfinite(boxes).all(-1) & np.isfinite(scores)
    warn_not_finite(finite)
    xywh = np.concatenate([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], -1).round(3)
    if masks is not None and mask_of is None:
        mask_of = lambda row, q: _cut(masks[row, q], sizes, row)  # noqa: E731
    records, places = [], []
    for row, image_id in enumerate(image_ids):
        for q in np.flatnonzero(finite[row]):
            label = labels[row, q]
            category = category_ids[label] if 0 <= label < len(category_ids) else None
            if category is None:
                continue
            record = {
                "image_id": _plain(image_id),
                "category_id": _plain(category),
                "bbox": xywh[row, q].tolist(),
                "score": scores[row, q].item(),
            }
            records.append(record)
            places.append((row, q))
    if mask_of is not None:
        each = map if pool is None else pool.map
        encoded = each(lambda place: encode_mask(mask_of(*place)), places)
        for record, segmentation in zip(records, encoded, strict=True):
            record["segmentation"] = segmentation
    return records


def _cut(mask: np.ndarray, sizes: np.ndarray | None, row: int) -> np.ndarray:
    if sizes is None:
        return mask
    height, width = sizes[row]
    return mask[:height, :width]


def _plain(value):
    return value.item() if isinstance(value, np.generic) else value

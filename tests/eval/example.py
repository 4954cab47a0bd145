"""The COCO API's published example, as arrays of our own detections."""

import functools
import json
import lzma
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from faster_coco_eval import mask as rle

from jaxseg.eval.results import coco_records
from jaxseg.structures import Detections

EXAMPLE = Path(__file__).parent / "cocoapi_example"


@functools.cache
def example(iou_type: str) -> tuple[dict, list[dict], dict]:
    """Ground truth, made-up results and the expected numbers."""
    truth = _unpacked("instances_val2014_100.json.xz")
    found = _unpacked(f"instances_val2014_fake{iou_type}100_results.json.xz")
    return truth, found, json.loads((EXAMPLE / "expected.json").read_text())["results"][iou_type]


def _unpacked(name: str):
    return json.loads(lzma.decompress((EXAMPLE / name).read_bytes()))


def example_batches(iou_type: str, positions: Sequence[int], batch_size: int = 4) -> Iterator:
    """Our records of the images at `positions`, by way of padded float32 arrays.

    Yields (position, records). Empty slots carry the label of a hole.
    """
    truth, found, _ = example(iou_type)
    category_ids = (None, *sorted(c["id"] for c in truth["categories"]))
    for start in range(0, len(positions), batch_size):
        chosen = positions[start : start + batch_size]
        images = [truth["images"][position] for position in chosen]
        rows = [[r for r in found if r["image_id"] == image["id"]] for image in images]
        sizes = np.asarray([(image["height"], image["width"]) for image in images])
        detections = _detections(rows, sizes, category_ids)
        for row, position in enumerate(chosen):
            one = Detections(*(x if x is None else x[row : row + 1] for x in detections))
            image_id = [images[row]["id"]]
            yield position, coco_records(one, image_id, category_ids, sizes[row : row + 1])


def _detections(rows: list[list[dict]], sizes: np.ndarray, category_ids: tuple) -> tuple:
    b, q = len(rows), max(1, *map(len, rows))
    boxes, scores = np.zeros((b, q, 4), np.float32), np.zeros((b, q), np.float32)
    labels = np.zeros((b, q), np.int32)
    masks = np.zeros((b, q, *sizes.max(0)), bool)
    for row, records in enumerate(rows):
        for slot, record in enumerate(records):
            x, y, w, h = record.get("bbox", (0, 0, 1, 1))
            boxes[row, slot] = x, y, x + w, y + h
            scores[row, slot] = record["score"]
            labels[row, slot] = category_ids.index(record["category_id"])
            if "segmentation" in record:
                mask = rle.decode(record["segmentation"]).astype(bool)
                masks[row, slot, : mask.shape[0], : mask.shape[1]] = mask
    segm = any("segmentation" in record for records in rows for record in records)
    return boxes, scores, labels, masks if segm else None

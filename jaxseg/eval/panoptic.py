"""Panoptic quality (arXiv 1801.00868, section 4), as COCO's panoptic API computes it.

PQ of a class is Σ IoU of matched segments / (TP + FP/2 + FN/2) = SQ · RQ. Two segments of one
class match if their IoU is above a half, so a segment has at most one match. Void pixels of the
ground truth count for nothing: they are no part of a union, and an unmatched prediction that is
void or a crowd of its class by more than a half is no false positive. A crowd matches nothing and
is never missed.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxseg.data.coco_json import is_crowd, is_number
from jaxseg.data.panoptic import VOID, Partition
from jaxseg.eval.categories import distinct_names

Record = dict[str, Any]

GROUPS = ("", "_things", "_stuff")
METRICS = tuple(f"{name}{group}" for group in GROUPS for name in ("PQ", "SQ", "RQ"))


@dataclass(frozen=True)
class PanopticTable:
    """Panoptic quality in [0, 1]; NaN where neither annotation nor prediction has a segment.

    Attributes:
      stats: `METRICS` by name: means over all classes, over things and over stuff.
      per_class: category name (see `distinct_names`) to its "PQ", "SQ", "RQ", "segments"
        (annotated, without crowds) and "thing".
    """

    stats: dict[str, float]
    per_class: dict[str, dict[str, float]]

    def metrics(self) -> dict[str, float]:
        """One flat dict for logs: `METRICS`, then "PQ/<class>" for each class."""
        return self.stats | {f"PQ/{name}": row["PQ"] for name, row in self.per_class.items()}

    def __str__(self) -> str:
        from jaxseg.eval.table import render_panoptic

        return render_panoptic(self)


def match_segments(truth: Partition, found: Partition) -> list[Record]:
    """Compare the segments of one image.

    Args:
      truth: its segments have "id" and "category_id", and "area" and "iscrowd" as COCO's do; where
        "area" is no number the pixels are counted.
      found: its segments have "id" and "category_id"; pixels of other ids are void.

    Returns:
      A record {category_id, iou, tp, fp, fn} for each category with segments to be counted.

    Raises:
      ValueError: the two are of different sizes.
    """
    if truth.ids.shape != found.ids.shape:
        raise ValueError(
            f"a prediction has the size of its image; got {found.ids.shape} for {truth.ids.shape}"
        )
    # With -1 for its void, a prediction's id may be 0.
    listed = [segment["id"] for segment in found.segments]
    ids = np.where(np.isin(found.ids, listed), found.ids, -1)
    area = dict(zip(*(x.tolist() for x in np.unique(ids, return_counts=True)), strict=True))
    overlap = _overlaps(truth.ids, ids)
    real = {s["id"]: s for s in truth.segments}
    predicted = {s["id"]: s for s in found.segments if s["id"] in area}

    counts = _Counts()
    matches = _matches(overlap, real, predicted, _areas(real, overlap), area)
    for (real_id, _), iou in matches.items():
        counts.add(real[real_id], iou=iou, tp=1)
    crowds = {s["category_id"]: s["id"] for s in real.values() if is_crowd(s)}
    for real_id in real.keys() - {a for a, _ in matches}:
        if not is_crowd(real[real_id]):
            counts.add(real[real_id], fn=1)
    for id_ in predicted.keys() - {b for _, b in matches}:
        crowd = crowds.get(predicted[id_]["category_id"])
        ignored = overlap.get((VOID, id_), 0) + overlap.get((crowd, id_), 0)
        if ignored / area[id_] <= 0.5:
            counts.add(predicted[id_], fp=1)
    return list(counts.records.values())


class _Counts:
    """Sums of one image by category."""

    def __init__(self):
        self.records: dict[int, Record] = {}

    def add(self, segment: Mapping, **values: float) -> None:
        category = segment["category_id"]
        zeros = {"category_id": category, "iou": 0.0, "tp": 0, "fp": 0, "fn": 0}
        record = self.records.setdefault(category, zeros)
        for name, value in values.items():
            record[name] += value


def _areas(real: Mapping, overlap: Mapping) -> dict[int, float]:
    """Pixels of each annotated segment: as stated, which the original trusts, or counted."""
    counted = Counter()
    for (id_, _), pixels in overlap.items():
        counted[id_] += pixels
    return {
        id_: segment["area"] if is_number(segment.get("area")) else counted[id_]
        for id_, segment in real.items()
    }


def _matches(
    overlap: Mapping, real: Mapping, predicted: Mapping, real_area: Mapping, area: Mapping
) -> dict:
    """IoU of the pairs (id, predicted id) that match."""
    matches = {}
    for (real_id, id_), pixels in overlap.items():
        a, b = real.get(real_id), predicted.get(id_)
        if a is None or b is None or is_crowd(a) or a["category_id"] != b["category_id"]:
            continue
        union = real_area[real_id] + area[id_] - pixels - overlap.get((VOID, id_), 0)
        iou = pixels / max(union, pixels)  # a stated area may be less than what is shared
        if iou > 0.5:
            matches[real_id, id_] = iou
    return matches


def _overlaps(real: np.ndarray, predicted: np.ndarray) -> dict[tuple[int, int], int]:
    """Pixels that two segments share, by their ids."""
    pairs = (real.astype(np.int64) << 32) + (predicted.astype(np.int64) + 1)
    values, pixels = np.unique(pairs, return_counts=True)
    keys = zip((values >> 32).tolist(), ((values & 0xFFFFFFFF) - 1).tolist(), strict=True)
    return dict(zip(keys, pixels.tolist(), strict=True))


def panoptic_table(
    records: Sequence[Record], categories: Sequence[Mapping[str, Any]]
) -> PanopticTable:
    """Sum up the records of many images.

    Args:
      records: of `match_segments`.
      categories: of the ground truth, with "id", "name" and "isthing".
    """
    sums = {c["id"]: {"iou": 0.0, "tp": 0, "fp": 0, "fn": 0} for c in categories}
    for record in records:
        total = sums[record["category_id"]]
        for name in total:
            total[name] += record[name]
    rows = {c["id"]: _row(sums[c["id"]], bool(c.get("isthing", 1))) for c in categories}
    stats = {}
    for group in GROUPS:
        chosen = [r for r in rows.values() if group == "" or r["thing"] == (group == "_things")]
        stats |= {f"{name}{group}": _mean([r[name] for r in chosen]) for name in ("PQ", "SQ", "RQ")}
    names = distinct_names(categories)
    return PanopticTable(stats, {names[id_]: row for id_, row in rows.items()})


def _row(total: Mapping[str, float], thing: bool) -> dict[str, float]:
    tp, weight = total["tp"], total["tp"] + total["fp"] / 2 + total["fn"] / 2
    row = {"PQ": float("nan"), "SQ": float("nan"), "RQ": float("nan")}
    if weight:
        row = {
            "PQ": total["iou"] / weight,
            "SQ": total["iou"] / tp if tp else 0.0,
            "RQ": tp / weight,
        }
    return row | {"segments": tp + total["fn"], "thing": thing}


def _mean(values: Sequence[float]) -> float:
    """Over the classes that occur."""
    values = [value for value in values if value == value]
    return sum(values) / len(values) if values else float("nan")

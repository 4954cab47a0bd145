"""The COCO table, and panoptic quality, as text for a terminal."""

import math
from collections.abc import Sequence

_TITLES = {"AP": "Average precision", "AR": "Average recall"}
_ROWS = (
    ("AP", "0.50:0.95", "all", 100), ("AP50", "0.50", "all", 100), ("AP75", "0.75", "all", 100),
    ("AP_small", "0.50:0.95", "small", 100), ("AP_medium", "0.50:0.95", "medium", 100),
    ("AP_large", "0.50:0.95", "large", 100),
    ("AR_1", "0.50:0.95", "all", 1), ("AR_10", "0.50:0.95", "all", 10),
    ("AR_100", "0.50:0.95", "all", 100), ("AR_small", "0.50:0.95", "small", 100),
    ("AR_medium", "0.50:0.95", "medium", 100), ("AR_large", "0.50:0.95", "large", 100),
)  # fmt: skip


def render(table) -> str:
    """A `CocoTable` as lines: the twelve numbers, then the classes, the best first."""
    title = {"bbox": "boxes", "segm": "masks"}[table.iou_type]
    lines = [f"COCO metrics of {title}", *_summary(table.stats)]
    classes = {name: row for name, row in table.per_class.items() if row["objects"]}
    if classes:
        lines += ["", *_classes(classes)]
    unseen = len(table.per_class) - len(classes)
    if unseen:
        lines.append(f"({unseen} of {len(table.per_class)} classes have no objects here)")
    return "\n".join(lines)


def render_lvis(table) -> str:
    """An `LvisTable` as lines: the nine numbers, with how many classes stand behind them."""
    from jaxseg.eval.lvis import FREQUENCIES

    seen = [row["frequency"] for row in table.per_class.values() if row["objects"]]
    groups = [(f"AP{f}", name, str(seen.count(f))) for f, name in FREQUENCIES.items()]
    areas = [(f"AP_{area}", f"{area} objects", "") for area in ("small", "medium", "large")]
    about = [("AP", "all", str(len(seen))), ("AP50", "IoU 0.50", ""), ("AP75", "IoU 0.75", "")]
    rows = [(n, what, count, _figure(table.stats[n])) for n, what, count in about + groups + areas]
    title = {"bbox": "boxes", "segm": "masks"}[table.iou_type]
    lines = [f"LVIS, fixed average precision of {title}"]
    lines += _align(("", "", "classes", ""), rows, right=(2, 3))
    unseen = len(table.per_class) - len(seen)
    return "\n".join([*lines, f"({unseen} of {len(table.per_class)} classes have no objects here)"])


def render_referring(table) -> str:
    """A `ReferringTable` as lines."""
    rows = [
        (f"among the best {name.rpartition('_')[2]}", name, _figure(value))
        for name, value in table.stats.items()
    ]
    return "\n".join(
        [
            "Referring expressions, share of them found at IoU 0.50",
            *_align(("a right box is", "", ""), rows, (2,)),
        ]
    )


def render_panoptic(table) -> str:
    """A `PanopticTable` as lines: the nine numbers, then the classes, the best first."""
    rows = [
        (title, *(_figure(table.stats[f"{name}{group}"]) for name in ("PQ", "SQ", "RQ")))
        for title, group in (("all", ""), ("things", "_things"), ("stuff", "_stuff"))
    ]
    lines = ["Panoptic quality", *_align(("classes", "PQ", "SQ", "RQ"), rows, right=(1, 2, 3))]
    classes = {name: row for name, row in table.per_class.items() if not math.isnan(row["PQ"])}
    ordered = sorted(classes.items(), key=lambda item: -item[1]["PQ"])
    rows = [
        (
            name,
            "thing" if row["thing"] else "stuff",
            str(row["segments"]),
            *(_figure(row[x]) for x in ("PQ", "SQ", "RQ")),
        )
        for name, row in ordered
    ]
    if rows:
        header = ("class", "", "segments", "PQ", "SQ", "RQ")
        lines += ["", *_align(header, rows, right=(2, 3, 4, 5))]
    if unseen := len(table.per_class) - len(classes):
        lines.append(f"({unseen} of {len(table.per_class)} classes have no segments here)")
    return "\n".join(lines)


def _summary(stats: dict[str, float]) -> list[str]:
    rows = [
        (_TITLES[name[:2]], iou, area, str(detections), name, _figure(stats[name]))
        for name, iou, area, detections in _ROWS
    ]
    return _align(("", "IoU", "area", "max", "", ""), rows, right=(3, 5))


def _classes(classes: dict[str, dict[str, float]]) -> list[str]:
    ordered = sorted(classes.items(), key=lambda item: -item[1]["AP"])
    rows = [
        (name, str(row["objects"]), _figure(row["AP"]), _figure(row["AP50"]))
        for name, row in ordered
    ]
    return _align(("class", "objects", "AP", "AP50"), rows, right=(1, 2, 3))


def _figure(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _align(header: Sequence[str], rows: list[Sequence[str]], right: Sequence[int]) -> list[str]:
    table = [header, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    lines = []
    for row in table:
        cells = [
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines

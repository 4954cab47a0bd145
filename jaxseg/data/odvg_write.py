"""ODVG files of what a detector found, to train on."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np


def detection_line(
    filename: str,
    size: tuple[int, int],
    boxes: np.ndarray,
    labels: Sequence[int],
    names: Sequence[str],
) -> dict:
    """A line of objects with classes.

    Args:
      size: (h, w).
      boxes: (n, 4), xyxy in pixels; they are clipped to the image, and those left without an area
        are left out.
      labels, names: of each of the n objects.
    """
    instances = [
        {"bbox": box, "label": int(label), "category": name}
        for box, label, name in zip(_clipped(boxes, size), labels, names, strict=True)
        if box is not None
    ]
    return _line(filename, size) | {"detection": {"instances": instances}}


def grounding_line(
    filename: str,
    size: tuple[int, int],
    caption: str,
    boxes: np.ndarray,
    phrases: Sequence[str],
    spans: Sequence[Sequence[tuple[int, int]] | None] | None = None,
) -> dict:
    """A line of objects with phrases; `spans` say which words of the caption each of them is."""
    regions = []
    spans = [None] * len(phrases) if spans is None else spans
    for box, phrase, span in zip(_clipped(boxes, size), phrases, spans, strict=True):
        if box is not None:
            said = {} if span is None else {"tokens_positive": [list(pair) for pair in span]}
            regions.append({"bbox": box, "phrase": phrase, **said})
    return _line(filename, size) | {"grounding": {"caption": caption, "regions": regions}}


def write_odvg(path: str | os.PathLike, lines: Iterable[Mapping]) -> int:
    """Write lines of `detection_line` or `grounding_line` to a file; returns how many.

    The file is there when all of it is written.
    """
    path, count = Path(path), 0
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
            count += 1
    os.replace(partial, path)
    return count


def _line(filename: str, size: tuple[int, int]) -> dict:
    return {"filename": filename, "height": int(size[0]), "width": int(size[1])}


def _clipped(boxes: np.ndarray, size: tuple[int, int]) -> list[list[float] | None]:
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    boxes = np.clip(boxes, 0, [size[1], size[0], size[1], size[0]]).round(2)
    real = (boxes[:, 2:] > boxes[:, :2]).all(-1)
    return [box if fine else None for box, fine in zip(boxes.tolist(), real, strict=True)]

"""Lines of ODVG files, read strictly."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxseg.data.coco_json import is_number, whole_side
from jaxseg.errors import UserError

Spans = tuple[tuple[int, int], ...]


class LineError(ValueError):
    """Why a line cannot be used."""


class Problem(NamedTuple):
    """A line that cannot be used; `number` counts from 1."""

    number: int
    text: str


class Line(NamedTuple):
    """What a line says.

    Attributes:
      number: of the line, from 1.
      size: (h, w).
      boxes: [x1, y1, x2, y2] of n objects.
      names: class or phrase of each.
      labels: of each; empty of phrases.
      spans: of each, the (begin, end) of its words in the caption; None where that is not said.
      caption: of phrases; None of classes.
    """

    number: int
    filename: str
    size: tuple[int, int]
    boxes: list[list[float]]
    names: list[str]
    labels: list[int]
    spans: list[Spans | None]
    caption: str | None = None


def load_lines(
    path: Path, names: Mapping[int, str] | None = None
) -> tuple[list[Line], list[Problem]]:
    """The lines of a file, and what is wrong with those that cannot be used.

    Args:
      names: of the labels of detection; None: the file names them itself.

    Raises:
      UserError: there is no such file, or it is no text.
    """
    lines, problems = [], []
    known: dict[int, str] = {}
    try:
        with path.open(encoding="utf-8") as file:
            for number, text in enumerate(file, 1):
                if not text.strip():
                    continue
                try:
                    lines.append(parse_line(text, number, names, known))
                except LineError as error:
                    problems.append(Problem(number, str(error)))
    except FileNotFoundError:
        raise UserError(f"the ODVG file {path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the ODVG file {path} cannot be read ({error})") from None
    return lines, problems


def parse_line(
    text: str, number: int, names: Mapping[int, str] | None, known: dict[int, str]
) -> Line:
    """Read one line.

    Args:
      names: see `load_lines`.
      known: names of the labels in lines before it; those of this one are added.

    Raises:
      LineError: says what came and what is allowed.
    """
    try:
        record = json.loads(text.strip())
    except json.JSONDecodeError as error:
        raise LineError(f"it is not valid JSON (column {error.colno}: {error.msg})") from None
    _require(isinstance(record, dict), "it must be an object {...}", record)
    filename = record.get("filename")
    _require(isinstance(filename, str) and filename != "", "filename must be text", filename)
    sides = tuple(whole_side(record.get(side)) for side in ("height", "width"))
    given = [record.get("height"), record.get("width")]
    _require(None not in sides, "height and width must be whole numbers above 0", given)
    about = (number, filename, sides)
    kinds = [kind for kind in ("detection", "grounding") if record.get(kind) is not None]
    _require(len(kinds) == 1, 'it must have "detection" or "grounding"', sorted(record))
    content = record[kinds[0]]
    _require(isinstance(content, dict), f"{kinds[0]} must be an object", content)
    if kinds[0] == "detection":
        return _detection(about, content, names, known)
    return _grounding(about, content)


def _detection(about, content: Mapping, names, known: dict[int, str]) -> Line:
    boxes, categories, labels = [], [], []
    for instance in _records(content, "instances"):
        boxes.append(_box(instance.get("bbox")))
        label, category = instance.get("label"), instance.get("category")
        whole = isinstance(label, int) and not isinstance(label, bool) and label >= 0
        _require(whole, "label must be a whole number from 0 on", label)
        if names is not None:
            _require(label in names, f"label must be one of the label map's {len(names)}", label)
            category = names[label]
        else:
            wanted = "category must be text, where there is no label map (label_map=FILE)"
            _require(isinstance(category, str) and category.strip() != "", wanted, category)
            same = known.get(label, category) == category
            _require(same, f"label {label} is {known.get(label)!r} before this line", category)
        labels.append(label)
        categories.append(category)
    known.update(zip(labels, categories, strict=True))
    return Line(*about, boxes, categories, labels, [None] * len(boxes))


def _grounding(about, content: Mapping) -> Line:
    caption = content.get("caption", "")
    _require(isinstance(caption, str), "caption must be text", caption)
    boxes, phrases, spans = [], [], []
    for region in _records(content, "regions"):
        phrase, found = region.get("phrase"), region.get("bbox")
        several = isinstance(found, list) and bool(found) and isinstance(found[0], list)
        own = [_box(box) for box in (found if several else [found])]
        _require(isinstance(phrase, str) and phrase.strip() != "", "phrase must be text", phrase)
        boxes += own
        phrases += [" ".join(phrase.split())] * len(own)
        spans += [_spans(region.get("tokens_positive"), caption)] * len(own)
    return Line(*about, boxes, phrases, [], spans, caption)


def _records(content: Mapping, field: str) -> list[Mapping]:
    records = content.get(field)
    fine = isinstance(records, list) and all(isinstance(r, dict) for r in records)
    _require(fine, f"{field} must be a list of objects", records)
    return records


def _box(box: Any) -> list[float]:
    fine = isinstance(box, list) and len(box) == 4 and all(map(is_number, box))
    _require(fine, "bbox must be [x1, y1, x2, y2], finite numbers", box)
    # A box without an area is dropped when the file is opened; one that is turned round is not
    # of this form.
    _require(box[2] >= box[0] and box[3] >= box[1], "bbox must have x1 ≤ x2 and y1 ≤ y2", box)
    return box


def _spans(given: Any, caption: str) -> Spans | None:
    if given is None:
        return None
    pairs = (
        isinstance(given, list)
        and bool(given)
        and all(
            isinstance(pair, list) and len(pair) == 2 and all(type(end) is int for end in pair)
            for pair in given
        )
    )
    allowed = f"tokens_positive must be pairs [begin, end] within the caption's {len(caption)}"
    _require(pairs and all(0 <= b < e <= len(caption) for b, e in given), allowed, given)
    return tuple((begin, end) for begin, end in given)


def _require(fine: bool, allowed: str, came: Any) -> None:
    if not fine:
        shown = repr(came)
        raise LineError(f"{allowed}; got {shown if len(shown) <= 80 else shown[:77] + '...'}")


def read_label_map(path: Path) -> dict[int, str]:
    """The names of labels: {"0": "person", ...}.

    Raises:
      UserError: no such file, or it is no label map.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"the label map {path} cannot be read ({error})") from None
    fine = isinstance(content, dict) and content
    if not fine or not all(k.isdecimal() and isinstance(v, str) for k, v in content.items()):
        raise UserError(
            f'the label map {path} must give each label a name, as in {{"0": "person", "1": "car"}}'
        )
    return {int(label): name for label, name in content.items()}

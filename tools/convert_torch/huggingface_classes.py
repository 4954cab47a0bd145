"""The classes that Hugging Face's `config.json` names."""

import re
from collections.abc import Mapping
from typing import Any

from jaxseg.data.classes import COCO_91, COCO_PANOPTIC, HOLE, Classes
from jaxseg.errors import UserError
from jaxseg_convert_torch.huggingface_fields import require_count

PLACEHOLDER = re.compile(r"LABEL_\d+")


def read_classes(config: Mapping[str, Any]) -> tuple[Classes, list[str]]:
    """`id2label` and our own field `category_ids` as classes, and a note if ids are assumed.

    Without that field the label is the category id, and "N/A" a hole.
    """
    # transformers leaves out what it would assume: two labels.
    count = config.get("num_labels", 2)
    require_count("num_labels", count)
    named = config.get("id2label") or {str(i): f"LABEL_{i}" for i in range(count)}
    try:
        by_label = {int(label): str(name) for label, name in named.items()}
    except (AttributeError, ValueError):
        by_label = {}
    if not by_label or sorted(by_label) != list(range(len(by_label))):
        raise UserError(
            'config.json: id2label must number its labels, {"0": name, "1": name, …}; '
            f"got {str(named)[:80]}"
        )
    names = tuple(by_label[label] for label in range(len(by_label)))
    if "category_ids" in config:
        ids = _read_ids(config["category_ids"], len(names))
        return Classes(names, ids, _read_stuff(config.get("stuff", []), len(names))), []
    if _is_coco_panoptic(names):
        return COCO_PANOPTIC, []
    ids = tuple(None if name == HOLE else label for label, name in enumerate(names))
    known = Classes(names, ids) == COCO_91
    notes = [] if known else ["that labels are category ids (config.json does not tell)"]
    return Classes(names, ids), notes


def _is_coco_panoptic(names: tuple[str, ...]) -> bool:
    """Whether names are COCO's things and stuff; published files leave some of them out."""
    known = zip(names, COCO_PANOPTIC.names, strict=False)
    fitting = all(a in (b, HOLE) or PLACEHOLDER.fullmatch(a) for a, b in known)
    return len(names) == len(COCO_PANOPTIC) and fitting and "person" in names


def _read_stuff(stuff, count: int) -> list[int]:
    if not isinstance(stuff, list) or not all(type(x) is int and 0 <= x < count for x in stuff):
        raise UserError(
            f"config.json: stuff must list labels from 0 to {count - 1}; got {str(stuff)[:80]}"
        )
    return stuff


def _read_ids(ids, count: int) -> tuple[int | None, ...]:
    good = isinstance(ids, list) and len(ids) == count
    if not good or not all(id_ is None or (type(id_) is int and id_ >= 0) for id_ in ids):
        raise UserError(
            f"config.json: category_ids must give a whole number or null to each of {count} "
            f"labels; got {str(ids)[:80]}"
        )
    return tuple(ids)


def write_classes(classes: Classes) -> dict[str, Any]:
    """The fields that `read_classes` reads."""
    id2label = {str(label): name for label, name in enumerate(classes.names)}
    return {
        "id2label": id2label,
        "label2id": {name: int(label) for label, name in id2label.items()},
        "category_ids": list(classes.category_ids),
        **({"stuff": sorted(classes.stuff)} if classes.stuff else {}),
    }

"""COCO's JSON: reading it strictly, and the ground truth that evaluation tools digest."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from jaxseg.data.classes import Classes
from jaxseg.errors import UserError

PARTS = ("images", "annotations", "categories")


class Opened(Protocol):
    """What is known of a data set once it is open."""

    classes: Classes
    sizes: np.ndarray
    image_ids: Sequence[int | str]


def load_coco(path: Path, parts: Sequence[str] = PARTS) -> dict:
    """Read a COCO file, which must have some parts.

    Raises:
      UserError: no such file, not JSON, not COCO's form, or no images in it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"the annotation file {path} does not exist: {_beside(path)}") from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"the annotation file {path} is not valid JSON (line {error.lineno}, column "
            f"{error.colno}: {error.msg}); it may be cut short: copy or export it again"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the annotation file {path} cannot be read ({error})") from None
    for part in parts:
        records = content.get(part) if isinstance(content, dict) else None
        if not isinstance(records, list) or not all(isinstance(r, dict) for r in records):
            raise UserError(
                f"the annotation file {path} has no list {part!r}; its form is {{"
                + ", ".join(f'"{part}": [...]' for part in parts)
                + "}"
            )
    if not content["images"]:
        raise UserError(f"the data set {path} is empty: its list of images has no entries")
    content["images"] = [_with_file_name(image) for image in content["images"]]
    return drop_group_category(content) if "categories" in parts else content


def _with_file_name(image: dict) -> dict:
    """An image's record; LVIS's has no file name, and the address of COCO's own file."""
    address = image.get("coco_url")
    if "file_name" in image or not isinstance(address, str):
        return image
    return {**image, "file_name": "/".join(address.split("/")[-2:])}


def _beside(path: Path) -> str:
    """What there is instead of an annotation file."""
    if not path.parent.is_dir():
        return f"there is no folder {path.parent} either"
    names = sorted(other.name for other in path.parent.glob("*.json"))
    if not names:
        return f"the folder {path.parent} has no JSON file"
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"the folder {path.parent} has {', '.join(names[:5])}{more}"


def drop_group_category(content: dict) -> dict:
    """Leave out the category 0 that Roboflow adds to name the group of all others."""
    categories = content["categories"]
    group = [c for c in categories if c.get("id") == 0 and c.get("supercategory") == "none"]
    if len(group) != 1 or len(categories) < 2:
        return content
    others = [c for c in categories if c is not group[0]]
    if any(c.get("supercategory") != group[0].get("name") for c in others):
        return content
    if any(a.get("category_id") == 0 for a in content["annotations"]):
        return content
    return {**content, "categories": others}


def owner_of(annotation: Mapping) -> int | str | None:
    """The `image_id` field, if it can be one."""
    image_id = annotation.get("image_id")
    return image_id if isinstance(image_id, int | str) else None


def bbox_problem(bbox) -> str | None:
    """Why a `bbox` field cannot be used, or None."""
    if not isinstance(bbox, list | tuple) or len(bbox) != 4:
        return "its bbox must be [x, y, width, height]"
    return None if all(map(is_number, bbox)) else "its bbox must hold finite numbers"


def is_number(value) -> bool:
    """Whether a field is a finite number."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)


def stated_area(annotation: Mapping) -> float:
    """The `area` field, or the box's area where the field is missing or no number."""
    area = annotation.get("area")
    return area if is_number(area) else annotation["bbox"][2] * annotation["bbox"][3]


def is_crowd(annotation: Mapping) -> bool:
    """The `iscrowd` field, which some exporters write as text."""
    value = annotation.get("iscrowd")
    return (
        value.strip().lower() not in ("", "0", "false") if isinstance(value, str) else bool(value)
    )


def usable_ids(records: Iterable[Mapping]) -> set[int]:
    """The whole numbers among the `id` fields."""
    return {record["id"] for record in records if isinstance(record.get("id"), int)}


def whole_side(value) -> int | None:
    """A side of an image in pixels, also where it is written as 6.0 or as text; else None."""
    try:
        number = float(value) if isinstance(value, int | float | str) else math.nan
    except (ValueError, OverflowError):
        return None
    return int(number) if number.is_integer() and number >= 1 and value is not True else None


def ground_truth(content: Mapping, table: Opened) -> dict:
    """What evaluation reads: annotations of known images, with area, iscrowd and usable ids.

    Sizes of images and names of categories that the file leaves out are those of the opened data
    set. COCO's tools take an annotation of id 0 for "no match" and let a repeated id replace the
    first, so where such ids occur all are numbered anew from 1.
    """
    sizes = dict(zip(table.image_ids, np.asarray(table.sizes).tolist(), strict=True))
    annotations = [
        {**a, "area": stated_area(a), "iscrowd": int(is_crowd(a))}
        for a in content["annotations"]
        if owner_of(a) in sizes
    ]
    ids = [a.get("id") for a in annotations]
    plain = all(isinstance(id_, int | str) and id_ != 0 for id_ in ids)
    if not plain or len(set(ids)) < len(ids):
        annotations = [{**a, "id": n} for n, a in enumerate(annotations, 1)]
    return {
        "info": content.get("info", {}),
        "images": [
            {**image, "height": sizes[image["id"]][0], "width": sizes[image["id"]][1]}
            for image in content["images"]
        ],
        "annotations": annotations,
        "categories": _named_categories(content, table.classes),
    }


def _named_categories(content: Mapping, classes: Classes) -> list[dict]:
    """The file's own records, with the names that the labels have."""
    names = {category["id"]: category["name"] for category in classes.to_categories()}
    return [{**category, "name": names[category["id"]]} for category in content["categories"]]

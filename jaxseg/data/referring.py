"""Referring expressions: images with one expression each, and the box of what it means.

    {"images": [{"id": 1, "file_name": "1.jpg", "height": 480, "width": 640,
                 "caption": "the man on the left"}],
     "annotations": [{"id": 1, "image_id": 1, "bbox": [10, 20, 100, 200]}]}

is the form of MDETR's finetune_refcoco_val.json and its like. An image with several expressions
has an entry, and an id, for each. Categories mean nothing here, and may be left out.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from jaxseg.data.classes import Numbering
from jaxseg.data.coco import CocoDataset, check_files, find_annotations, find_images, with_size
from jaxseg.data.coco_json import ground_truth, load_coco
from jaxseg.data.coco_table import CocoTable
from jaxseg.data.dataset import Example
from jaxseg.errors import UserError

CATEGORY = {"id": 1, "name": "object"}


def open_referring(
    location: str,
    *,
    numbering: Numbering = "contiguous",
    images: str | None = None,
    masks: bool = False,
) -> "ReferringDataset":
    """Open a file of referring expressions; the arguments are those of `coco.open_coco`.

    Raises:
      UserError: nothing there, images missing, one without an expression, or with no box or
        several.
    """
    path = find_annotations(location)
    content = _load(path)
    _check(content, path)
    folder = find_images(path, content["images"], images, "refcoco:")
    check_files(path, folder, content["images"])
    content["images"] = [with_size(image, folder, path) for image in content["images"]]
    table = CocoTable.build(content, str(path), numbering, masks)
    _check_boxes(table, path)
    captions = [image["caption"] for image in content["images"]]
    return ReferringDataset(path, folder, table, captions)


class ReferringDataset(CocoDataset):
    """Images of a folder, each with one expression and one box.

    Attributes:
      captions: the expression of each image.
    """

    names_by_image = True

    def __init__(self, path: Path, folder: Path, table: CocoTable, captions: Sequence[str]):
        super().__init__(path, folder, table)
        self.captions = tuple(captions)

    def __getitem__(self, index: int) -> Example:
        caption = self.captions[index]
        return dataclasses.replace(
            super().__getitem__(index),
            caption=caption,
            names=(caption,),
            exhaustive=False,
            spans=(((0, len(caption)),),),
        )

    def coco(self) -> dict:
        return ground_truth(_load(self.path), self._table)

    def without_masks(self) -> Self:
        return type(self)(self.path, self.folder, self._table.without_masks(), self.captions)


def _load(path: Path) -> dict:
    """The file with the one category that all its boxes are of."""
    content = load_coco(path, parts=("images", "annotations"))
    annotations = [{**a, "category_id": CATEGORY["id"]} for a in content["annotations"]]
    return {**content, "annotations": annotations, "categories": [CATEGORY]}


def _check(content: Mapping, path: Path) -> None:
    boxes = Counter(
        json.dumps(annotation.get("image_id"), default=str) for annotation in content["annotations"]
    )
    for image in content["images"]:
        caption, name = image.get("caption"), f"{path}: the image {image.get('id')!r}"
        if not isinstance(caption, str) or not caption.strip():
            raise UserError(f"{name} has no expression: write what is looked for as its caption")
        if (count := boxes[json.dumps(image.get("id"), default=str)]) != 1:
            raise UserError(
                f"{name} ({caption!r}) has {count or 'no'} annotations: an expression means one "
                "box; add it, or take the others or the image out"
            )


def _check_boxes(table: CocoTable, path: Path) -> None:
    for index, image_id in enumerate(table.image_ids):
        if table.offsets[index] == table.offsets[index + 1]:
            raise UserError(
                f"{path}: the box of the image {image_id!r} is empty or outside of it: correct it"
            )

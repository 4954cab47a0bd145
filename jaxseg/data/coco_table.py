"""Annotations as flat arrays: small to send to worker processes, quick to look up."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from jaxseg.data.classes import Classes, Numbering
from jaxseg.data.coco_json import bbox_problem, is_crowd, owner_of, stated_area
from jaxseg.data.dataset import Example
from jaxseg.data.segmentation import decode_segmentation
from jaxseg.errors import UserError

ADVICE = "run `jaxseg doctor` for all that is wrong with this data set"


@dataclass(frozen=True)
class CocoTable:
    """The annotations of n images, m objects, sorted by image.

    Attributes:
      classes: of the labels.
      image_ids, file_names: of each image.
      sizes: int32 (n, 2), height and width.
      offsets: int64 (n + 1,); objects of image i are rows offsets[i] to offsets[i + 1].
      boxes: float32 (m, 4), xyxy in pixels, clamped to the image, none of them empty.
      labels, area, iscrowd: (m,).
      annotation_ids: (m,) to name an object in messages.
      segmentations: the `segmentation` fields, or None if masks are not wanted.
    """

    classes: Classes
    image_ids: Sequence[int | str]
    file_names: Sequence[str]
    sizes: np.ndarray
    offsets: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    area: np.ndarray
    iscrowd: np.ndarray
    annotation_ids: Sequence
    segmentations: Sequence | None

    @classmethod
    def build(cls, content: Mapping, name: str, numbering: Numbering, masks: bool) -> Self:
        """Read the dictionary of a COCO file; `name` stands for it in messages.

        Boxes are clamped to their image, and those left without an area are dropped.

        Raises:
          UserError: an image id twice, a category that is not defined, a box that is no box, or,
            with `masks`, an object without one (a crowd needs none: it is no target).
        """
        classes = Classes.from_categories(content["categories"], numbering)
        images = content["images"]
        position = {image["id"]: i for i, image in enumerate(images)}
        if len(position) < len(images):
            seen = set()
            twice = next(i["id"] for i in images if i["id"] in seen or seen.add(i["id"]))
            raise UserError(f"{name}: the image id {twice!r} occurs twice; {ADVICE}")
        sizes = np.asarray([(i["height"], i["width"]) for i in images], np.int32).reshape(-1, 2)
        # Annotations of images that are not listed are common in subsets, and go unread.
        objects = [a for a in content["annotations"] if owner_of(a) in position]
        for annotation in objects:
            _check(annotation, classes, name)
        owner = np.asarray([position[a["image_id"]] for a in objects], np.int64)
        boxes = _clamp(np.asarray([a["bbox"] for a in objects], np.float64), sizes[owner])
        order = np.argsort(owner, kind="stable")
        order = order[(boxes[order, 2:] > boxes[order, :2]).all(-1)]
        objects, boxes = [objects[i] for i in order], boxes[order]
        if masks:
            _check_masks(objects, name)
        return cls(
            classes=classes,
            image_ids=[image["id"] for image in images],
            file_names=[str(image.get("file_name", image["id"])) for image in images],
            sizes=sizes,
            offsets=np.searchsorted(owner[order], np.arange(len(images) + 1)),
            boxes=boxes,
            labels=np.asarray([classes.label_of[a["category_id"]] for a in objects], np.int32),
            area=np.asarray([stated_area(a) for a in objects], np.float32),
            iscrowd=np.asarray([is_crowd(a) for a in objects], bool),
            annotation_ids=[a.get("id") for a in objects],
            segmentations=[a.get("segmentation") for a in objects] if masks else None,
        )

    def __len__(self) -> int:
        return len(self.image_ids)

    def without_masks(self) -> Self:
        return replace(self, segmentations=None)

    def object_ids(self, index: int) -> Sequence:
        """The annotation ids of an image's objects."""
        return self.annotation_ids[self.offsets[index] : self.offsets[index + 1]]

    def to_coco(self) -> dict:
        """The same as a COCO file has it, without masks."""
        owners = np.repeat(np.arange(len(self)), np.diff(self.offsets)).tolist()
        starts, extents = self.boxes[:, :2], self.boxes[:, 2:] - self.boxes[:, :2]
        boxes = np.concatenate([starts, extents], -1).tolist()
        images = zip(self.image_ids, self.file_names, self.sizes.tolist(), strict=True)
        return {
            "images": [
                {"id": id_, "file_name": name, "height": height, "width": width}
                for id_, name, (height, width) in images
            ],
            "annotations": [
                {
                    "id": id_,
                    "image_id": self.image_ids[owners[n]],
                    "category_id": self.classes.category_ids[self.labels[n]],
                    "bbox": boxes[n],
                    "area": float(self.area[n]),
                    "iscrowd": int(self.iscrowd[n]),
                }
                for n, id_ in enumerate(self.annotation_ids)
            ],
            "categories": self.classes.to_categories(),
        }

    def example(self, index: int, image: np.ndarray) -> Example:
        """Put an image and its objects together.

        Raises:
          UserError: an object's mask cannot be decoded.
        """
        rows = slice(self.offsets[index], self.offsets[index + 1])
        return Example(
            image=image,
            boxes=self.boxes[rows],
            labels=self.labels[rows],
            area=self.area[rows],
            iscrowd=self.iscrowd[rows],
            image_id=self.image_ids[index],
            file_name=self.file_names[index],
            masks=None if self.segmentations is None else self._masks(index),
        )

    def _masks(self, index: int) -> np.ndarray:
        height, width = map(int, self.sizes[index])
        rows = range(self.offsets[index], self.offsets[index + 1])
        masks = np.zeros((len(rows), height, width), bool)
        for mask, row in zip(masks, rows, strict=True):
            try:
                mask[:] = decode_segmentation(self.segmentations[row], height, width)
            except (ValueError, TypeError) as error:
                raise UserError(
                    f"the mask of annotation {self.annotation_ids[row]} (image "
                    f"{self.file_names[index]}) cannot be decoded: {error}; {ADVICE}"
                ) from error
        return masks


def _check(annotation: Mapping, classes: Classes, name: str) -> None:
    which = _which(annotation, name)
    category = annotation.get("category_id")
    if not isinstance(category, int) or category not in classes.label_of:
        raise UserError(
            f"{which} has the unknown category {category!r}; defined are "
            f"{_some(classes.label_of)}. Add it to `categories` or remove the annotation; {ADVICE}"
        )
    if problem := bbox_problem(annotation.get("bbox")):
        raise UserError(
            f"{which} cannot be used: {problem}, got {annotation.get('bbox')}; {ADVICE}"
        )


def _check_masks(objects: Sequence[Mapping], name: str) -> None:
    bare = [a for a in objects if not a.get("segmentation")]
    if objects and len(bare) == len(objects):
        raise UserError(
            f"{name} has boxes but no masks. A mask head needs masks; boxes alone are trained with "
            "data.masks=false and a model without one (detr/finetune, not detr/synthetic_masks), "
            "and judged by `jaxseg eval --boxes`"
        )
    if bare := [a for a in bare if not is_crowd(a)]:
        more = f", and so have {len(bare) - 1} more" if len(bare) > 1 else ""
        raise UserError(
            f"{_which(bare[0], name)} has no mask{more}, while others have one: add it, or take "
            "the object out (`jaxseg doctor` lists them all). Boxes alone are trained with "
            "data.masks=false, and judged by `jaxseg eval --boxes`"
        )


def _which(annotation: Mapping, name: str) -> str:
    return f"{name}: annotation {annotation.get('id')} of image {annotation['image_id']!r}"


def _clamp(xywh: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    if not len(xywh):
        return np.zeros((0, 4), np.float32)
    corners = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], -1)
    return np.clip(corners, 0, np.tile(sizes[:, ::-1], 2)).astype(np.float32)


def _some(ids) -> str:
    ids = list(ids)
    return ", ".join(map(str, ids[:12])) + (f" and {len(ids) - 12} more" if len(ids) > 12 else "")

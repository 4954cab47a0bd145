"""COCO's panoptic form: a JSON file, and for each image a PNG whose colours are segment ids.

    {"images": [...], "categories": [{"id", "name", "isthing"}, ...],
     "annotations": [{"image_id", "file_name": "a.png",
                      "segments_info": [{"id", "category_id", "bbox", "area", "iscrowd"}, ...]}]}

A pixel's id is red + 256 green + 65536 blue; 0 is void, which belongs to no segment.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from PIL import Image

from jaxseg.data.classes import Classes, Numbering
from jaxseg.data.coco import check_files, find_images, with_size
from jaxseg.data.coco_json import bbox_problem, ground_truth, load_coco
from jaxseg.data.coco_table import CocoTable
from jaxseg.data.dataset import FORMS, Example
from jaxseg.data.images import check_size, read_image
from jaxseg.errors import UserError

VOID = 0
SCHEME = "panoptic:"


class Partition(NamedTuple):
    """An image's ground truth.

    Attributes:
      ids: int32 (h, w), the segment id of each pixel, `VOID` where there is none.
      segments: the records of `segments_info`.
    """

    ids: np.ndarray
    segments: list[dict]


def open_panoptic(
    location: str,
    *,
    numbering: Numbering = "contiguous",
    images: str | None = None,
    segments: str | None = None,
    masks: bool = False,
) -> "PanopticDataset":
    """Open a panoptic JSON file, or ROOT/SPLIT of COCO's own layout.

    Every segment is an object, stuff and crowds included, as the mask head is trained with.

    Args:
      location: of the data set.
      numbering: of the labels, as in `Classes.from_categories`.
      images, segments: folders of the images and of the PNG files, if they are not found beside
        the annotations.
      masks: whether examples carry segment masks.

    Raises:
      UserError: nothing there, files missing, or annotations that cannot be used.
    """
    path = find_panoptic(location)
    content = load_coco(path)
    _check(content, path)
    folder = find_images(path, content["images"], images, SCHEME)
    check_files(path, folder, content["images"])
    colours = find_segments(path, content["annotations"], segments)
    check_files(path, colours, content["annotations"])
    content["images"] = [with_size(image, folder, path) for image in content["images"]]
    by_image = {a["image_id"]: a for a in content["annotations"]}
    objects = segment_objects(content, training=True)
    table = CocoTable.build(objects, str(path), numbering, masks=False)
    names = [by_image[image]["file_name"] for image in table.image_ids]
    return PanopticDataset(path, folder, colours, names, table, masks)


@dataclasses.dataclass
class PanopticDataset:
    """Images of a folder with the segments of one panoptic file.

    Attributes:
      path: of the JSON file.
      folder, colours: of the images and of the PNG files.
      names: the PNG file of each image.
      masks: whether examples carry masks.
    """

    path: Path
    folder: Path
    colours: Path
    names: Sequence[str]
    table: CocoTable
    masks: bool
    names_by_image = False

    @property
    def classes(self) -> Classes:
        return self.table.classes

    @property
    def sizes(self) -> np.ndarray:
        return self.table.sizes

    @property
    def image_ids(self) -> Sequence[int | str]:
        return self.table.image_ids

    def __len__(self) -> int:
        return len(self.table)

    def image_path(self, index: int) -> Path:
        return self.folder / self.table.file_names[index]

    def __getitem__(self, index: int) -> Example:
        path = self.image_path(index)
        image = read_image(path)
        check_size(str(path), image.shape[:2], self.sizes[index])
        example = self.table.example(index, image)
        if not self.masks:
            return example
        ids = self._ids(index)
        wanted = self.table.object_ids(index)
        masks = ids == np.asarray(wanted, np.int32)[:, None, None]
        if empty := [id_ for id_, mask in zip(wanted, masks, strict=True) if not mask.any()]:
            raise UserError(
                f"{self.colours / self.names[index]} has no pixel of the segment {empty[0]} that "
                f"{self.path} lists: correct one of them"
            )
        return dataclasses.replace(example, masks=masks)

    def panoptic(self, index: int) -> Partition:
        """The ground truth of an image, for panoptic quality.

        Raises:
          UserError: its PNG file cannot be read.
        """
        return Partition(self._ids(index), self._segments[self.image_ids[index]])

    def coco(self) -> dict:
        return ground_truth(segment_objects(load_coco(self.path)), self.table)

    def without_masks(self) -> Self:
        return dataclasses.replace(self, masks=False)

    @cached_property
    def _segments(self) -> Mapping[int | str, list[dict]]:
        annotations = load_coco(self.path)["annotations"]
        return {a["image_id"]: a["segments_info"] for a in annotations}

    def _ids(self, index: int) -> np.ndarray:
        path = self.colours / self.names[index]
        ids = ids_of_colours(read_image(path))
        check_size(str(path), ids.shape, self.sizes[index])
        return ids

    def __getstate__(self) -> dict:
        # Worker processes read examples; the ground truth stays here.
        return {name: value for name, value in self.__dict__.items() if name != "_segments"}


def ids_of_colours(colours: np.ndarray) -> np.ndarray:
    """Segment ids, int32 (h, w), of a PNG's pixels, uint8 (h, w, 3)."""
    return colours.astype(np.int32) @ np.asarray([1, 256, 65536], np.int32)


def colours_of_ids(ids: np.ndarray) -> np.ndarray:
    """The inverse of `ids_of_colours`."""
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)


def write_ids(ids: np.ndarray, path: Path) -> None:
    """Write segment ids, int (h, w), as a PNG file."""
    Image.fromarray(colours_of_ids(ids)).save(path, "PNG")


def find_panoptic(location: str) -> Path:
    """The JSON file that a location means."""
    path = Path(location).expanduser()
    split = path.parent / "annotations" / f"panoptic_{path.name}.json"
    for candidate in (path, split):
        if candidate.is_file():
            return candidate
    raise UserError(
        f"there is no panoptic data set {location!r}: neither the file {path} nor {split} exists. "
        f"A data set is {FORMS}"
    )


def find_segments(path: Path, annotations: Sequence[Mapping], folder: str | None = None) -> Path:
    """The folder of a JSON file's PNG files.

    Raises:
      UserError: none of the usual places has any of the first of them.
    """
    if folder is not None:
        return Path(folder).expanduser()
    candidates = [path.with_suffix(""), path.parent.parent / path.stem, path.parent]
    names = [annotation["file_name"] for annotation in annotations[:20]]
    for candidate in candidates:
        if any((candidate / name).is_file() for name in names):
            return candidate
    raise UserError(
        f"the PNG files of {path} were not found: {names[0]!r} is in none of "
        f"{', '.join(map(str, candidates))}; unpack them there, or say where they are with "
        f"segments=DIR (on the command line, {SCHEME}{path}?segments=DIR)"
    )


def lists_segments(annotation: Mapping) -> bool:
    """Whether an annotation names a PNG file and lists its segments."""
    segments = annotation.get("segments_info")
    listed = isinstance(segments, list) and all(isinstance(s, dict) for s in segments)
    return listed and isinstance(annotation.get("file_name"), str)


def is_segment_id(value: Any) -> bool:
    """Whether a colour stands for it, and not for void."""
    return isinstance(value, int) and VOID < value < 2**24


def _check(content: Mapping, path: Path) -> None:
    """Raise `UserError` unless each image has its segments."""
    for annotation in content["annotations"]:
        image_id = annotation.get("image_id")
        if not isinstance(image_id, int | str):
            raise UserError(f"{path}: every annotation needs an image_id; got {image_id!r}")
        if not lists_segments(annotation):
            raise UserError(
                f"{path}: every annotation of panoptic ground truth needs a file_name and a list "
                f"segments_info; that of image {image_id!r} has not. Boxes and instance masks are "
                f"opened without {SCHEME}"
            )
        for segment in annotation["segments_info"]:
            _check_segment(segment, f"{path}: a segment of image {image_id!r}")
    known = {annotation["image_id"] for annotation in content["annotations"]}
    if bare := [image.get("id") for image in content["images"] if image.get("id") not in known]:
        raise UserError(
            f"{path}: the image {bare[0]!r} has no annotation; add one, if of no segments, or "
            "take the image out"
        )


def _check_segment(segment: Mapping, which: str) -> None:
    id_ = segment.get("id")
    if not is_segment_id(id_):
        raise UserError(f"{which} needs an id from 1 to 2**24 - 1; got {id_!r}")
    if problem := bbox_problem(segment.get("bbox")):
        raise UserError(f"{which} cannot be used: {problem}, got {segment.get('bbox')}")


def segment_objects(content: Mapping, training: bool = False) -> dict:
    """COCO's form for boxes with each segment an annotation.

    For training a box ends at its last pixel, not after it, and crowds are objects as others: so
    the published weights were trained. One pixel is the least extent.
    """
    annotations = []
    for annotation in content["annotations"]:
        for segment in annotation["segments_info"]:
            record = {**segment, "image_id": annotation["image_id"]}
            if training:
                x, y, width, height = segment["bbox"]
                record |= {"bbox": [x, y, max(width - 1, 1), max(height - 1, 1)], "iscrowd": 0}
            annotations.append(record)
    return {**content, "annotations": annotations}

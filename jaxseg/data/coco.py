"""Data sets in COCO's form: its own layout, Roboflow's, or a folder of images and a JSON file."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Self

import numpy as np

from jaxseg.data.classes import Classes, Numbering
from jaxseg.data.coco_json import ground_truth, load_coco, whole_side
from jaxseg.data.coco_table import CocoTable
from jaxseg.data.dataset import FORMS, Example
from jaxseg.data.images import check_size, read_image, read_size
from jaxseg.errors import UserError

ROBOFLOW = "_annotations.coco.json"


def open_coco(
    location: str,
    *,
    numbering: Numbering = "contiguous",
    images: str | None = None,
    masks: bool = False,
) -> "CocoDataset":
    """Open a COCO file, a folder that holds one, or ROOT/SPLIT of COCO's own layout.

    Args:
      location: of the data set.
      numbering: of the labels, as in `Classes.from_categories`.
      images: folder of the images, if they are not found beside the annotations.
      masks: whether examples carry object masks.

    Raises:
      UserError: nothing there, images missing, or annotations that cannot be used.
    """
    path = find_annotations(location)
    content = load_coco(path)
    refuse_panoptic(content, path)
    folder = find_images(path, content["images"], images)
    check_files(path, folder, content["images"])
    content["images"] = [with_size(image, folder, path) for image in content["images"]]
    return CocoDataset(path, folder, CocoTable.build(content, str(path), numbering, masks))


class CocoDataset:
    """Images of a folder with the annotations of one COCO file.

    Attributes:
      classes, sizes, image_ids: as every data set has them.
      path: of the annotation file.
      folder: that the file names are relative to.
    """

    names_by_image = False

    def __init__(self, path: Path, folder: Path, table: CocoTable):
        self.path, self.folder, self._table = path, folder, table

    @property
    def classes(self) -> Classes:
        return self._table.classes

    @property
    def sizes(self) -> np.ndarray:
        return self._table.sizes

    @property
    def image_ids(self) -> Sequence[int | str]:
        return self._table.image_ids

    def __len__(self) -> int:
        return len(self._table)

    def image_path(self, index: int) -> Path:
        return self.folder / self._table.file_names[index]

    def __getitem__(self, index: int) -> Example:
        path = self.image_path(index)
        image = read_image(path)
        check_size(str(path), image.shape[:2], self.sizes[index])
        return self._table.example(index, image)

    def coco(self) -> dict:
        return ground_truth(load_coco(self.path), self._table)

    def without_masks(self) -> Self:
        return type(self)(self.path, self.folder, self._table.without_masks())


def find_annotations(location: str) -> Path:
    """The annotation file that a location means."""
    path = Path(location).expanduser()
    split = path.parent / "annotations" / f"instances_{path.name}.json"
    if path.is_file() or path.suffix == ".json":
        return path
    if split.is_file():
        return split
    if not path.is_dir():
        raise UserError(
            f"there is no data set {location!r}: neither {path} nor {split} exists. A data set is "
            + FORMS
        )
    if (path / ROBOFLOW).is_file():
        return path / ROBOFLOW
    found = sorted(path.glob("*.json"))
    if len(found) == 1:
        return found[0]
    choices = found + sorted(path.glob(f"*/{ROBOFLOW}"))
    if len(choices) == 1:
        return choices[0]
    if choices:
        names = ", ".join(str(c.parent if c.name == ROBOFLOW else c) for c in choices[:6])
        raise UserError(f"the folder {path} holds several data sets; name one of them: {names}")
    if splits := sorted(path.glob("annotations/instances_*.json")):
        names = [f"coco:{path / s.stem.removeprefix('instances_')}" for s in splits]
        raise UserError(f"the folder {path} is of COCO's layout; name one of {', '.join(names)}")
    raise UserError(f"the folder {path} has no COCO json file in it. A data set is {FORMS}")


def refuse_panoptic(content: Mapping, path: Path) -> None:
    """Raise `UserError` if annotations list segments, which have no boxes of their own."""
    if any("segments_info" in annotation for annotation in content["annotations"][:1]):
        raise UserError(f"{path} is panoptic ground truth: open it as panoptic:{path}")


def find_images(
    path: Path, images: Sequence[Mapping], folder: str | None = None, scheme: str = ""
) -> Path:
    """The folder that the file names of a COCO file are relative to.

    Args:
      folder: where they are, if that is known.
      scheme: what a data set's name begins with, for messages.

    Raises:
      UserError: none of the usual places has any of the first images.
    """
    for image in images:
        if not isinstance(image.get("file_name"), str) or not isinstance(
            image.get("id"), int | str
        ):
            raise UserError(f"{path}: every image needs an id and a file_name; got {image}")
    if folder is not None:
        candidates = [Path(folder).expanduser()]
    else:
        split = path.stem.removeprefix("instances_").removeprefix("panoptic_")
        near = [path.parent, path.parent.parent]
        candidates = [
            place / name
            for place in near
            for name in ("", "images", split, f"images/{split}", f"{split}/images")
        ]
    names = [image["file_name"] for image in images[:20]]
    for candidate in candidates:
        if any((candidate / name).is_file() for name in names):
            return candidate
    raise UserError(
        f"the images of {path} were not found: {names[0]!r} is in none of "
        f"{', '.join(map(str, candidates))}; say where they are with images=DIR (on the command "
        f"line, {scheme}{path}?images=DIR)"
    )


def missing_files(folder: Path, images: Sequence[Mapping]) -> list[str]:
    """File names that do not exist, found by listing folders instead of asking file by file."""
    names = [image["file_name"] for image in images]
    parents = {str(PurePosixPath(name).parent) for name in names}
    present = set()
    for parent in parents:
        try:
            with os.scandir(folder / parent) as entries:
                present.update(str(PurePosixPath(parent) / entry.name) for entry in entries)
        except OSError:
            continue
    return [name for name in names if str(PurePosixPath(name)) not in present]


def check_files(path: Path, folder: Path, images: Sequence[Mapping]) -> None:
    """Raise `UserError` if images that the annotations name are missing."""
    if missing := missing_files(folder, images):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(
            f"the image {folder / missing[0]}{more}, named in {path}, does not exist; put the "
            "files there, or take them out of the annotations (`jaxseg doctor` lists them all)"
        )


def with_size(image: Mapping, folder: Path, path: Path) -> dict:
    """An image's record with its height and width, from the file where they are not stated."""
    if image.get("height") is None or image.get("width") is None:
        height, width = read_size(folder / image["file_name"])
        return {**image, "height": height, "width": width}
    height, width = whole_side(image["height"]), whole_side(image["width"])
    if height is None or width is None:
        raise UserError(
            f"{path}: height and width of an image must be whole numbers of pixels above 0; got "
            f"{image['height']!r} and {image['width']!r} for {image['file_name']!r}: correct them "
            "or leave them out, and the file's own are taken"
        )
    return {**image, "height": height, "width": width}

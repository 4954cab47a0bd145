"""ODVG, an image a line: boxes with classes ("detection") or with phrases ("grounding").

    {"filename": "1.jpg", "height": 480, "width": 640, "detection": {"instances":
        [{"bbox": [10, 20, 110, 220], "label": 0, "category": "cat"}]}}
    {"filename": "2.jpg", "height": 480, "width": 640, "grounding": {"caption": "A cat on a mat",
        "regions": [{"bbox": [10, 20, 110, 220], "phrase": "a cat", "tokens_positive": [[0, 5]]}]}}

Boxes are [x1, y1, x2, y2] in pixels; a region may have a list of them. A label map, {"0": "cat"},
names the classes of detection; without one they are those that the file names itself.
"""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np

from jaxseg.data.classes import Classes, Numbering
from jaxseg.data.coco import find_images, missing_files
from jaxseg.data.coco_table import CocoTable
from jaxseg.data.dataset import Example
from jaxseg.data.images import check_size, read_image
from jaxseg.data.odvg_lines import Line, Problem, load_lines, read_label_map
from jaxseg.errors import UserError


def open_odvg(
    location: str,
    *,
    numbering: Numbering = "contiguous",
    images: str | None = None,
    label_map: str | None = None,
    skip: bool = False,
    masks: bool = False,
) -> "OdvgDataset":
    """Open an ODVG file.

    Boxes are clipped to their image, and those left without an area are dropped.

    Args:
      location: of the file.
      numbering: of the classes' labels, as in `Classes.from_categories`.
      images: folder of the images, if they are not found beside the file.
      label_map: JSON file that names the classes of detection.
      skip: leave out lines that cannot be used, with a warning; otherwise they are an error.
      masks: ODVG has none.

    Raises:
      UserError: nothing there, no line that can be used, lines that cannot be used (names the
        first and counts the others), images that are missing.
    """
    if masks:
        raise UserError(f"{location} is ODVG, which has no masks: set data.masks=false")
    path = Path(location).expanduser()
    names = None if label_map is None else read_label_map(Path(label_map).expanduser())
    lines, problems = load_lines(path, names)
    if problems and not skip:
        raise UserError(f"{_first(path, problems)}; mend them, or leave them out with skip=true")
    if not lines:
        raise UserError(f"{path} has no line that can be used" + _because(path, problems))
    if problems:
        total = len(lines) + len(problems)
        warnings.warn(
            f"{len(problems)} of {total} lines are left out: {_first(path, problems)}",
            stacklevel=2,
        )
    content = to_coco(lines, names)
    folder = find_images(path, content["images"], images, "odvg:")
    if missing := missing_files(folder, content["images"]):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(
            f"the image {folder / missing[0]}{more}, named in {path}, does not exist; put the "
            "files there, or take their lines out"
        )
    return OdvgDataset(path, folder, lines, content, numbering)


class OdvgDataset:
    """Images of a folder with the lines of one ODVG file.

    Images with phrases carry them as `Example.names`, and where the file says which words of the
    caption they are, as `Example.spans`.

    Attributes:
      classes: of detection; a file of phrases alone has none.
      sizes, image_ids: as every data set has them; an image's id is its file name, with the line
        where a file has several.
      names_by_image: whether there are images with phrases.
    """

    def __init__(
        self,
        path: Path,
        folder: Path,
        lines: Sequence[Line],
        content: Mapping,
        numbering: Numbering,
    ):
        self.path, self.folder = path, folder
        self._table = CocoTable.build(content, str(path), numbering, masks=False)
        self._captions = [line.caption for line in lines]
        self._spans = [spans for line in lines for spans in line.spans]
        self.names_by_image = any(caption is not None for caption in self._captions)
        # A phrase of one image is no class of another. The table's labels of phrases come last.
        classes = [category for category in content["categories"] if not category["phrase"]]
        self.classes = Classes.from_categories(classes, numbering) if classes else Classes((), ())

    @property
    def sizes(self) -> np.ndarray:
        return self._table.sizes

    @property
    def image_ids(self) -> Sequence[str]:
        return self._table.image_ids

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> Example:
        path = self.folder / self._table.file_names[index]
        image = read_image(path)
        check_size(str(path), image.shape[:2], self.sizes[index])
        example = self._table.example(index, image)
        caption = self._captions[index]
        return example if caption is None else self._grounded(example, index, caption)

    def _grounded(self, example: Example, index: int, caption: str) -> Example:
        """The example with the distinct phrases of its objects as names."""
        spans = [self._spans[id_ - 1] for id_ in self._table.object_ids(index)]
        phrases = [self._table.classes.names[label] for label in example.labels]
        place: dict[tuple, int] = {}
        labels = [place.setdefault(key, len(place)) for key in zip(phrases, spans, strict=True)]
        known = caption and None not in spans
        return dataclasses.replace(
            example,
            labels=np.asarray(labels, np.int32),
            caption=caption,
            names=tuple(phrase for phrase, _ in place),
            exhaustive=False,
            spans=tuple(span for _, span in place) if known else None,
        )

    def coco(self) -> dict:
        return self._table.to_coco()

    def without_masks(self) -> Self:
        return self


def to_coco(lines: Sequence[Line], names: Mapping[int, str] | None) -> dict:
    """Lines as COCO's JSON has them; phrases become categories after those of detection."""
    categories = dict(names or {})
    for line in lines:
        if line.caption is None:
            categories.update(zip(line.labels, line.names, strict=True) if names is None else ())
    number, phrases = max(categories, default=-1) + 1, {}
    seen = set()
    images, annotations = [], []
    for line in lines:
        id_ = line.filename if line.filename not in seen else f"{line.filename}:{line.number}"
        seen.add(line.filename)
        height, width = line.size
        images.append({"id": id_, "file_name": line.filename, "height": height, "width": width})
        for n, (x1, y1, x2, y2) in enumerate(line.boxes):
            label = line.labels[n] if line.caption is None else None
            if label is None:
                label = phrases.setdefault(line.names[n], number + len(phrases))
            box = [x1, y1, x2 - x1, y2 - y1]
            annotation = {"id": len(annotations) + 1, "image_id": id_, "category_id": label}
            annotations.append({**annotation, "bbox": box, "area": box[2] * box[3]})
    known = [{"id": id_, "name": name, "phrase": False} for id_, name in categories.items()]
    known += [{"id": id_, "name": name, "phrase": True} for name, id_ in phrases.items()]
    return {"images": images, "annotations": annotations, "categories": known}


def _first(path: Path, problems: Sequence[Problem]) -> str:
    more = f" (and {len(problems) - 1} more such lines)" if len(problems) > 1 else ""
    return f"{path}, line {problems[0].number}: {problems[0].text}{more}"


def _because(path: Path, problems: Sequence[Problem]) -> str:
    return f": {_first(path, problems)}" if problems else ": it is empty"

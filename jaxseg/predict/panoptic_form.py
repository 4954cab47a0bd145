"""Scenes in COCO's panoptic form: FILE.json, and a folder FILE with a PNG of ids for each image."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxseg.data.panoptic import write_ids
from jaxseg.errors import UserError
from jaxseg.native import read_json
from jaxseg.predict.coco_form import image_id
from jaxseg.predict.outputs import LISTING, check_file, check_folder, distinct_names

if TYPE_CHECKING:
    from jaxseg.data.classes import Classes
    from jaxseg.predict.panoptic import Scene

INFO = {"description": "scenes that jaxseg predict found"}


class PanopticFiles:
    """The files of one run; made before the work, which it refuses where it could not be saved.

    Args:
      path: of the JSON file.
      images: that are divided.
      out: the folder of the pictures and their listing.

    Raises:
      UserError: not a .json file, a place that cannot be written to, files that no earlier run
        wrote, or that the same run writes.
    """

    def __init__(self, path: Path, images: Sequence[Path], out: Path):
        if path.suffix != ".json":
            raise UserError(f"--panoptic {path} must end in .json: its PNG files get the rest")
        check_file("--panoptic", path)
        self.path, self.folder = path, path.with_suffix("")
        check_folder("--panoptic (its PNG files)", self.folder)
        listing, pictures = (out / LISTING).resolve(), out.resolve()
        if path.resolve() == listing or self.folder.resolve() == pictures:
            raise UserError(
                f"--panoptic {path} and its PNG files in {self.folder} would lie where --out "
                f"{out} writes pictures and {LISTING}: choose another file"
            )
        self._names = _png_names(images)
        self._before = self._listed()
        originals = {image.resolve() for image in images}
        for name in self._names.values():
            if (self.folder / name).resolve() in originals:
                raise UserError(
                    f"--panoptic {path} would overwrite the image {self.folder / name}: choose "
                    "another file"
                )
            if os.path.lexists(self.folder / name) and name not in self._before:
                raise UserError(
                    f"--panoptic would overwrite {self.folder / name}, which no earlier run wrote "
                    f"({path} does not list it): choose another file, or move it away"
                )

    def save(self, image: Path, scene: "Scene", category_ids: Sequence | None) -> dict[str, Any]:
        """Write the PNG of an image; returns its annotation.

        Without `category_ids`, a label is its own category.

        Raises:
          OSError: it cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        target = self.folder / self._names[image]
        partial = target.with_name(".partial.png")
        try:
            write_ids(scene.ids, partial)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
        return {
            "image_id": image_id(image),
            "file_name": target.name,
            "segments_info": _segments_info(scene, category_ids),
        }

    def write(
        self, found: Iterable[tuple[Path, tuple[int, int], dict]], classes: "Classes | None"
    ) -> None:
        """Write the JSON file, and remove what only the earlier run had.

        Args:
          found: image, its (h, w), and its annotation.
        """
        from jaxseg.predict.result import write_json

        found = list(found)
        annotations = [annotation for _, _, annotation in found]
        images = [
            {"id": image_id(path), "file_name": path.name, "height": height, "width": width}
            for path, (height, width), _ in found
        ]
        categories = [] if classes is None else classes.to_categories()
        content = {"images": images, "annotations": annotations, "categories": categories}
        write_json(self.path, {"info": INFO} | content)
        for name in self._before - {annotation["file_name"] for annotation in annotations}:
            (self.folder / name).unlink(missing_ok=True)

    def _listed(self) -> set[str]:
        if not self.path.exists():
            return set()
        try:
            content = read_json(self.path)
            names = {str(a["file_name"]) for a in content["annotations"]}
            # Ground truth has this form too.
            ours = content["info"] == INFO
        except (UserError, KeyError, TypeError):
            names, ours = set(), False
        if not ours or any(name != Path(name).name or name[-4:] != ".png" for name in names):
            raise UserError(
                f"--panoptic would overwrite {self.path}, which no earlier run wrote: choose "
                "another file, or move it away"
            )
        return names


def _png_names(images: Sequence[Path]) -> dict[Path, str]:
    return dict(zip(images, distinct_names((image.stem, ".png") for image in images), strict=True))


def _segments_info(scene: "Scene", category_ids: Sequence | None) -> list[dict[str, Any]]:
    records = []
    for segment in scene.segments:
        (rows,), (columns,) = (np.nonzero((scene.ids == segment.id).any(a)) for a in (1, 0))
        top, left = int(rows[0]), int(columns[0])
        label = segment.label
        records.append(
            {
                "id": segment.id,
                "category_id": label if category_ids is None else category_ids[label],
                "isthing": int(segment.thing),
                "score": round(segment.score, 5),
                "area": segment.area,
                "bbox": [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top],
                "iscrowd": 0,
            }
        )
    return records

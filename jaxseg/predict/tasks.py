"""What `jaxseg predict` does with images: find objects in them, or divide them."""

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxseg.predict.coco_form import coco_form
from jaxseg.predict.detector import Detector
from jaxseg.predict.draw import draw
from jaxseg.predict.draw_scene import draw_scene
from jaxseg.predict.grounded import GroundedDetector
from jaxseg.predict.grounded_segmenter import GroundedSegmenter
from jaxseg.predict.panoptic import Scene
from jaxseg.predict.panoptic_form import PanopticFiles
from jaxseg.predict.phrases import Text
from jaxseg.predict.result import Prediction, write_json


class Kept(NamedTuple):
    """What is kept of an answer until the end: its pixels are not.

    Attributes:
      record: for predictions.json.
      names: of its objects or segments.
      size: (h, w) of the image.
      form: what COCO's form has of it.
    """

    record: dict
    names: tuple[str, ...]
    size: tuple[int, int]
    form: Any


class Task(NamedTuple):
    """What is done with images.

    Attributes:
      answer: of prepared images.
      draw: (path, answer) to a picture.
      keep: (path, answer) to what is kept of it.
      write: of all that was kept, by path.
    """

    answer: Callable[[Iterable], list]
    draw: Callable[[Path, Any], Any]
    keep: Callable[[Path, Any], Kept]
    write: Callable[[dict[Path, Kept]], None]


def objects_task(detector: Detector, threshold: float, coco: Path | None) -> Task:
    """Frames and masks of objects; COCO's form of results goes to `coco`."""
    ids = detector.classes.category_ids if detector.classes else None
    return _objects(lambda images: detector.detect(images, threshold), ids, coco)


def words_task(
    finder: GroundedDetector | GroundedSegmenter,
    text: Text,
    count: int,
    box_threshold: float,
    text_threshold: float,
    coco: Path | None,
) -> Task:
    """Frames, and masks, of what a text names, of `count` phrases; the category of each in COCO's
    form of results is its place, from 1."""

    def answer(images: Iterable) -> list:
        return finder.detect(images, text, box_threshold, text_threshold)

    return _objects(answer, range(1, count + 1), coco)


def _objects(answer: Callable[[Iterable], list], ids: Sequence | None, coco: Path | None) -> Task:
    def keep(path: Path, found: Prediction) -> Kept:
        form = coco_form(path, found, ids) if coco else []
        return Kept(found.to_dict(), found.names, found.size, form)

    def write(kept: dict[Path, Kept]) -> None:
        if coco:
            write_json(coco, [record for one in kept.values() for record in one.form])

    return Task(answer, draw, keep, write)


def scenes_task(detector: Detector, threshold: float, files: PanopticFiles) -> Task:
    """Divided images; COCO's panoptic form goes to `files`.

    Raises:
      UserError: the model draws no masks.
    """
    detector.require_masks()
    classes = detector.classes
    if classes is None or not classes.stuff:
        said = "note: these weights know things and no stuff, so the ground falls to some thing"
        print(said, file=sys.stderr)

    def keep(path: Path, found: Scene) -> Kept:
        form = files.save(path, found, classes.category_ids if classes else None)
        return Kept(found.to_dict(), found.names, found.size, form)

    def write(kept: dict[Path, Kept]) -> None:
        files.write([(path, one.size, one.form) for path, one in kept.items()], classes)

    return Task(lambda images: detector.divide(images, threshold), draw_scene, keep, write)

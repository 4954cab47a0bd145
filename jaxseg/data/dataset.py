"""What a data set is to the rest of the package, and how one is opened by name."""

import dataclasses
import importlib
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self
from urllib.parse import parse_qsl

import numpy as np

from jaxseg.data.classes import Classes, Numbering
from jaxseg.errors import UserError


@dataclasses.dataclass(frozen=True)
class Example:
    """One image and its objects, in pixels of the image as it is stored.

    Attributes:
      image: uint8 (h, w, 3), RGB.
      boxes: float32 (n, 4), xyxy in pixels, inside the image and not empty.
      labels: int32 (n,), as the model numbers them.
      area: float32 (n,), in square pixels, of the mask where the source knows it.
      iscrowd: bool (n,); crowd regions are for evaluation and are no targets.
      image_id: the source's own.
      file_name: to name the image in messages.
      masks: bool (n, h, w), only if the data set was opened with masks.
      caption: what the image shows, if the source says so.
      names: what the labels stand for, where they are not the data set's classes.
      exhaustive: whether what has a name and no object is not in the image. Phrases of a caption
        promise no such thing.
      spans: for each of `names` the (begin, end) of its words in `caption`, if that is known.
    """

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    area: np.ndarray
    iscrowd: np.ndarray
    image_id: int | str
    file_name: str
    masks: np.ndarray | None = None
    caption: str | None = None
    names: tuple[str, ...] | None = None
    exhaustive: bool = True
    spans: tuple[tuple[tuple[int, int], ...], ...] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.image.shape[0], self.image.shape[1]

    def select(self, keep: np.ndarray) -> Self:
        """The same image with some of its objects (a bool or integer index over n)."""
        return dataclasses.replace(
            self,
            boxes=self.boxes[keep],
            labels=self.labels[keep],
            area=self.area[keep],
            iscrowd=self.iscrowd[keep],
            masks=None if self.masks is None else self.masks[keep],
        )


class Dataset(Protocol):
    """Random access to annotated images.

    Attributes:
      classes: of the labels.
      sizes: int32 (n, 2), height and width of each image, known without decoding.
      image_ids: the source's id of each image.
      names_by_image: whether there are images with names of their own, which are no classes.
    """

    classes: Classes
    sizes: np.ndarray
    image_ids: Sequence[int | str]
    names_by_image: bool

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example:
        """Raises `UserError` naming the file where an image cannot be read."""

    def coco(self) -> dict:
        """The ground truth as COCO's JSON has it: crowds included, the source's category ids."""

    def without_masks(self) -> Self:
        """The same, whose examples carry no masks; the ground truth keeps them."""


SOURCES = {
    "coco": "jaxseg.data.coco:open_coco",
    "panoptic": "jaxseg.data.panoptic:open_panoptic",
    "tfds": "jaxseg.data.tfds:open_tfds",
    "odvg": "jaxseg.data.odvg:open_odvg",
    "refcoco": "jaxseg.data.referring:open_referring",
    "synthetic": "jaxseg.data.synthetic:open_synthetic",
    "coloured": "jaxseg.data.coloured:open_coloured",
}

FORMS = (
    "a COCO json file, a folder with one, coco:ROOT/SPLIT, panoptic:ROOT/SPLIT, tfds:NAME/SPLIT, "
    "a packed folder, odvg:FILE.jsonl, refcoco:FILE.json, synthetic:shapes, or coloured:SPLIT"
)


def open_dataset(
    spec: str | os.PathLike, *, numbering: Numbering = "contiguous", **options
) -> Dataset:
    """Open a data set by its name.

    Args:
      spec: one of
        - the path of a COCO json file; its images are looked for beside it (images=DIR says where);
        - a folder with `_annotations.coco.json` (Roboflow) or a single json file;
        - `coco:ROOT/train2017`, COCO's own layout;
        - `panoptic:ROOT/train2017` or `panoptic:FILE.json`, COCO's panoptic form;
        - `tfds:NAME[/split]`, or a folder that `jaxseg data pack` wrote, with or without `/split`;
        - `odvg:FILE.jsonl`, boxes with names or phrases, an image a line;
        - `refcoco:FILE.json`, an expression and its box for each image;
        - `synthetic:shapes`, or `coloured:train`, `coloured:seen` and `coloured:held_out`.
        Options may follow as `?name=value&name=value`.
      numbering: of the labels, as in `Classes.from_categories`.
      **options: of the source; `masks=True` is common to all.

    Raises:
      UserError: nothing is there, or what is there cannot be trained on; says what to do.
    """
    scheme, location, query = parse_spec(spec)
    opener = _opener(scheme)
    given = {"numbering": numbering, **query, **options}
    return opener(location, **_typed(opener, given, os.fspath(spec)))


def parse_spec(spec: str | os.PathLike) -> tuple[str, str, dict[str, str]]:
    """Split a name into source, location and options."""
    text = os.fspath(spec)
    location, query = text, ""
    if not Path(text).expanduser().exists():  # a real path may have a question mark in it
        location, _, query = text.partition("?")
    scheme, colon, rest = location.partition(":")
    if colon and scheme in SOURCES:
        return scheme, rest, dict(parse_qsl(query, keep_blank_values=True))
    if colon and scheme.isidentifier() and not Path(location).expanduser().exists():
        known = ", ".join(f"{name}:" for name in SOURCES)
        raise UserError(f"unknown kind of data set {scheme}: in {text!r}; known are {known}")
    packed = any(
        (folder / "dataset_info.json").is_file()
        for folder in (Path(location).expanduser(), Path(location).expanduser().parent)
    )
    if location.endswith(".jsonl"):
        return "odvg", location, dict(parse_qsl(query, keep_blank_values=True))
    return ("tfds" if packed else "coco"), location, dict(parse_qsl(query, keep_blank_values=True))


def _opener(scheme: str) -> Callable[..., Dataset]:
    module, _, function = SOURCES[scheme].partition(":")
    return getattr(importlib.import_module(module), function)


def _typed(opener: Callable, given: Mapping[str, Any], spec: str) -> dict[str, Any]:
    parameters = {
        name: parameter
        for name, parameter in inspect.signature(opener).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    typed = {}
    for name, value in given.items():
        if name not in parameters:
            raise UserError(
                f"unknown option {name!r} for the data set {spec!r}; it takes "
                f"{', '.join(sorted(parameters))}"
            )
        kind = parameters[name].annotation
        try:
            typed[name] = _parse(value, kind) if isinstance(value, str) else value
        except ValueError:
            wanted = {int: "a whole number", float: "a number", bool: "true or false"}[kind]
            raise UserError(f"option {name} of {spec!r} must be {wanted}; got {value!r}") from None
    return typed


def _parse(text: str, kind: Any) -> Any:
    if kind is bool:
        words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
        if text.lower() not in words:
            raise ValueError(text)
        return words[text.lower()]
    return kind(text) if kind in (int, float) else text

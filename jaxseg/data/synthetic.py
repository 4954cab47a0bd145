"""Textured shapes on textured ground, made from (seed, index) alone: a data set without files."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, Self

import numpy as np

from jaxseg.data.classes import Classes, Numbering
from jaxseg.data.dataset import Example
from jaxseg.data.edits import Size
from jaxseg.data.scenes import draw_scene
from jaxseg.data.segmentation import encode_mask
from jaxseg.data.shapes import SHAPES
from jaxseg.errors import UserError


def open_synthetic(
    location: str,
    *,
    numbering: Numbering = "contiguous",
    count: int = 2000,
    seed: int = 0,
    size: int = 128,
    vary: float = 0.0,
    objects: int = 6,
    classes: int = len(SHAPES),
    masks: bool = False,
) -> "Synthetic":
    """Open `synthetic:shapes`.

    Args:
      location: "shapes".
      numbering: of the labels; the categories have the ids 1, 2, ...
      count: images.
      seed: another seed is another data set; use one for training and one for evaluation.
      size: sides of an image in pixels.
      vary: each side is drawn from size · (1 ± vary).
      objects: at most so many in an image; at least one.
      classes: the first so many of `SHAPES` occur; fewer are sooner learned.
      masks: whether examples carry object masks.
    """
    if location != "shapes":
        raise UserError(f"the synthetic data set is synthetic:shapes; got {location!r}")
    limits = {
        "count": count >= 1,
        "seed": 0 <= seed < 2**64,
        "size": size >= 32,
        "vary": 0 <= vary < 1,
        "objects": objects > 0,
        "classes": 1 <= classes <= len(SHAPES),
    }
    if wrong := [name for name, fine in limits.items() if not fine]:
        raise UserError(
            "synthetic:shapes needs count ≥ 1, 0 ≤ seed < 2**64, size ≥ 32, 0 ≤ vary < 1, "
            f"objects ≥ 1, 1 ≤ classes ≤ {len(SHAPES)}; wrong is {', '.join(wrong)}"
        )
    painter = Shapes(SHAPES[:classes])
    return Synthetic(count, seed, size, vary, objects, masks, numbering, painter)


class Painter(Protocol):
    """What is drawn.

    Attributes:
      title: what the pictures are called.
      names: of the kinds of objects.
      stream: of random numbers; equal seeds of two streams give other pictures.
    """

    title: str
    names: tuple[str, ...]
    stream: int

    def draw(
        self, size: Size, most: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, list[int], str]:
        """A picture with up to `most` objects, as `draw_scene` returns it."""


@dataclass(frozen=True)
class Shapes:
    """Shapes of every colour and texture, named after their outline."""

    names: tuple[str, ...] = SHAPES
    title: str = "shapes"
    stream: int = 0

    def draw(
        self, size: Size, most: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, list[int], str]:
        return draw_scene(size, most, rng, self.names)


@dataclass(frozen=True)
class Synthetic:
    """`count` images that a painter draws; the other fields are those of `open_synthetic`."""

    count: int
    seed: int
    side: int
    vary: float
    objects: int
    masks: bool
    numbering: Numbering = "contiguous"
    painter: Painter = Shapes()
    names_by_image = False

    @cached_property
    def classes(self) -> Classes:
        categories = [{"id": n, "name": name} for n, name in enumerate(self.painter.names, 1)]
        return Classes.from_categories(categories, self.numbering)

    @cached_property
    def sizes(self) -> np.ndarray:
        sizes = [_size(self._rng(i), self.side, self.vary) for i in range(self.count)]
        return np.asarray(sizes, np.int32)

    @property
    def image_ids(self) -> Sequence[int]:
        return range(1, self.count + 1)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Example:
        if not -self.count <= index < self.count:
            raise IndexError(f"index must be in 0..{self.count - 1}; got {index}")
        index %= self.count
        rng = self._rng(index)
        size = _size(rng, self.side, self.vary)
        image, masks, kinds, caption = self.painter.draw(size, self.objects, rng)
        labels = [self.classes.label_of[kind + 1] for kind in kinds]
        return Example(
            image=image,
            boxes=_boxes(masks),
            labels=np.asarray(labels, np.int32),
            area=masks.sum((1, 2)).astype(np.float32),
            iscrowd=np.zeros(len(masks), bool),
            image_id=index + 1,
            file_name=f"{self.painter.title}-{self.seed}-{index:06d}.png",
            masks=masks if self.masks else None,
            caption=caption,
        )

    def coco(self) -> dict:
        images, annotations = [], []
        for example in map(dataclasses.replace(self, masks=True).__getitem__, range(self.count)):
            height, width = example.size
            image_id = example.image_id
            images.append(
                {
                    "id": image_id,
                    "file_name": example.file_name,
                    "height": height,
                    "width": width,
                    "caption": example.caption,
                }
            )
            for n, box in enumerate(example.boxes.tolist()):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image_id,
                        "category_id": self.classes.category_ids[example.labels[n]],
                        "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                        "area": float(example.area[n]),
                        "iscrowd": 0,
                        "segmentation": encode_mask(example.masks[n]),
                    }
                )
        return {
            "info": {"description": f"synthetic {self.painter.title}, seed {self.seed}"},
            "images": images,
            "annotations": annotations,
            "categories": self.classes.to_categories(),
        }

    def without_masks(self) -> Self:
        return dataclasses.replace(self, masks=False)

    def _rng(self, index: int) -> np.random.Generator:
        key = np.asarray([self.seed, (self.painter.stream << 32) + index], np.uint64)
        return np.random.Generator(np.random.Philox(key=key))


def _size(rng: np.random.Generator, side: int, vary: float) -> Size:
    drawn = side * rng.uniform(1 - vary, 1 + vary, 2)
    return max(32, round(drawn[0])), max(32, round(drawn[1]))


def _boxes(masks: np.ndarray) -> np.ndarray:
    boxes = np.zeros((len(masks), 4), np.float32)
    for box, mask in zip(boxes, masks, strict=True):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes

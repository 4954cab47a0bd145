"""What an image consists of: every pixel belongs to one thing, or to stuff."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jaxseg.models.detr.segments import Segments


class Segment(NamedTuple):
    """One thing, or all of one kind of stuff.

    Attributes:
      id: its number in `Scene.ids`, from 1.
      label: class index as the model numbers it.
      name: of the class.
      thing: whether it is a thing, of which there may be several.
      score: probability of the class, in [0, 1].
      area: pixels.
    """

    id: int
    label: int
    name: str
    thing: bool
    score: float
    area: int


@dataclass(frozen=True)
class Scene:
    """The segments of one image.

    Attributes:
      ids: int32 (h, w) of the upright image, each pixel's segment; 0 where there is none.
      segments: in order of their ids.
    """

    ids: np.ndarray
    segments: tuple[Segment, ...]

    @classmethod
    def of(
        cls, found: Segments, names: Sequence[str | None], things: Sequence[bool | None]
    ) -> "Scene":
        """Name what `panoptic_segments` found; ids begin with 1, as 0 is COCO's void."""
        rows = zip(found.labels.tolist(), found.scores.tolist(), found.areas.tolist(), strict=True)
        segments = tuple(
            Segment(n, label, str(names[label]), bool(things[label]), score, area)
            for n, (label, score, area) in enumerate(rows, 1)
        )
        return cls(found.ids + 1 if segments else found.ids, segments)

    def __len__(self) -> int:
        return len(self.segments)

    @property
    def size(self) -> tuple[int, int]:
        """(h, w)."""
        return self.ids.shape[0], self.ids.shape[1]

    @property
    def names(self) -> tuple[str, ...]:
        """The class of each segment in words."""
        return tuple(segment.name for segment in self.segments)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: width, height, and segments; pixels are not among them."""
        height, width = self.size
        segments = [s._asdict() | {"score": round(s.score, 5)} for s in self.segments]
        return {"width": width, "height": height, "segments": segments}

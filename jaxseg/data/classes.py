"""Class names and how a model's labels relate to a data set's category ids."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Self

from jaxseg.errors import UserError

HOLE = "N/A"

Numbering = Literal["contiguous", "raw"]


@dataclass(frozen=True)
class Classes:
    """The classes of a model or of a data set; the position in both tuples is the model's label.

    Attributes:
      names: readable names, `HOLE` where no category has the label.
      category_ids: the data set's own ids, None where no category has the label.
      stuff: labels of what has an extent but no number, such as sky; the others are things.
    """

    names: tuple[str, ...]
    category_ids: tuple[int | None, ...]
    stuff: frozenset[int] = frozenset()

    def __post_init__(self):
        object.__setattr__(self, "names", tuple(self.names))
        object.__setattr__(self, "category_ids", tuple(self.category_ids))
        object.__setattr__(self, "stuff", frozenset(self.stuff))
        if len(self.names) != len(self.category_ids):
            raise ValueError(
                f"names and category_ids must be of one length; got {len(self.names)} and "
                f"{len(self.category_ids)}"
            )
        if beyond := sorted(self.stuff - set(range(len(self.names)))):
            raise ValueError(
                f"stuff must be labels from 0 to {len(self.names) - 1}; got {beyond[0]}"
            )

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def label_of(self) -> Mapping[int, int]:
        """The model's label of each category id."""
        return {id_: label for label, id_ in enumerate(self.category_ids) if id_ is not None}

    @property
    def things(self) -> tuple[bool, ...]:
        """Whether each label is a thing."""
        return tuple(label not in self.stuff for label in range(len(self.names)))

    def padded(self, count: int) -> Self:
        """The same with holes for the labels up to `count` that only a model has."""
        holes = count - len(self)
        return dataclasses.replace(
            self,
            names=self.names + (HOLE,) * holes,
            category_ids=self.category_ids + (None,) * holes,
        )

    @classmethod
    def from_categories(
        cls, categories: Iterable[Mapping], numbering: Numbering = "contiguous"
    ) -> Self:
        """Number COCO's `categories` (records with `id` and `name`, of stuff with `isthing` 0).

        Args:
          categories: in any order; ids may have gaps and begin anywhere at or above 0.
          numbering: "contiguous" gives labels 0..K-1 in the order of the ids; "raw" takes the id
            itself as label and fills the gaps with holes, as DETR's published weights do.

        Raises:
          UserError: no categories, an id twice, or an id that is not a whole number ≥ 0.
        """
        categories = list(categories)
        names = _names_by_id(categories)
        if numbering not in ("contiguous", "raw"):
            raise UserError(f'numbering must be "contiguous" or "raw"; got {numbering!r}')
        labels = range(max(names) + 1) if numbering == "raw" else names
        ids = tuple(id_ if id_ in names else None for id_ in labels)
        stuff = {c["id"] for c in categories if not c.get("isthing", True)}
        return cls(
            tuple(names.get(id_, HOLE) for id_ in labels),
            ids,
            frozenset(label for label, id_ in enumerate(ids) if id_ in stuff),
        )

    @classmethod
    def from_names(cls, names: Iterable[str]) -> Self:
        """Classes without a data set: category ids equal labels."""
        names = tuple(names)
        return cls(names, tuple(range(len(names))))

    def to_categories(self) -> list[dict]:
        """COCO's `categories`, holes left out; `isthing` is said where there is stuff."""
        categories = []
        for label, (id_, name) in enumerate(zip(self.category_ids, self.names, strict=True)):
            if id_ is not None:
                isthing = {"isthing": int(label not in self.stuff)} if self.stuff else {}
                categories.append({"id": id_, "name": name} | isthing)
        return categories

    def to_json(self) -> dict:
        stuff = {"stuff": sorted(self.stuff)} if self.stuff else {}
        return {"names": list(self.names), "category_ids": list(self.category_ids)} | stuff

    @classmethod
    def from_json(cls, record: Mapping) -> Self:
        return cls(record["names"], record["category_ids"], record.get("stuff", ()))


def _names_by_id(categories: Iterable[Mapping]) -> dict[int, str]:
    names = {}
    for category in categories:
        id_ = category.get("id") if isinstance(category, Mapping) else None
        if not isinstance(id_, int) or isinstance(id_, bool) or id_ < 0:
            raise UserError(f"each category needs an id that is a whole number ≥ 0; got {category}")
        if id_ in names:
            raise UserError(f"category id {id_} occurs twice; give every category its own id")
        names[id_] = str(category.get("name", f"class {id_}"))
    if not names:
        raise UserError("the data set names no categories; there is nothing to detect")
    return dict(sorted(names.items()))


_COCO_NAMES = (
    "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, "
    "fire hydrant, , stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, "
    "bear, zebra, giraffe, , backpack, umbrella, , , handbag, tie, suitcase, frisbee, skis, "
    "snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard, "
    "tennis racket, bottle, , wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, "
    "orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, , "
    "dining table, , , toilet, , tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven, "
    "toaster, sink, refrigerator, , book, clock, vase, scissors, teddy bear, hair drier, toothbrush"
)

_COCO_CATEGORIES = [
    {"id": id_, "name": name} for id_, name in enumerate(_COCO_NAMES.split(", "), 1) if name
]

COCO_91 = Classes.from_categories(_COCO_CATEGORIES, "raw")
"""COCO's 80 categories under their own ids 1..90, as DETR's published weights number them."""

_COCO_STUFF = (
    "92 banner, 93 blanket, 95 bridge, 100 cardboard, 107 counter, 109 curtain, 112 door-stuff, "
    "118 floor-wood, 119 flower, 122 fruit, 125 gravel, 128 house, 130 light, 133 mirror-stuff, "
    "138 net, 141 pillow, 144 platform, 145 playingfield, 147 railroad, 148 river, 149 road, 151 "
    "roof, 154 sand, 155 sea, 156 shelf, 159 snow, 161 stairs, 166 tent, 168 towel, 171 "
    "wall-brick, 175 wall-stone, 176 wall-tile, 177 wall-wood, 178 water-other, 180 window-blind, "
    "181 window-other, 184 tree-merged, 185 fence-merged, 186 ceiling-merged, 187 "
    "sky-other-merged, 188 cabinet-merged, 189 table-merged, 190 floor-other-merged, 191 "
    "pavement-merged, 192 mountain-merged, 193 grass-merged, 194 dirt-merged, 195 paper-merged, "
    "196 food-other-merged, 197 building-other-merged, 198 rock-merged, 199 wall-other-merged, "
    "200 rug-merged"
)

_COCO_STUFF_CATEGORIES = [
    {"id": int(id_), "name": name, "isthing": 0}
    for id_, name in (words.split() for words in _COCO_STUFF.split(", "))
]

COCO_PANOPTIC = Classes.from_categories(_COCO_CATEGORIES + _COCO_STUFF_CATEGORIES, "raw").padded(
    250
)
"""COCO's 80 things and 53 kinds of stuff under their own ids 1..200, as DETR's published panoptic
weights number them: with labels up to 249."""

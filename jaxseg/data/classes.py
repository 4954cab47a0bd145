"""Class names and how a model's labels relate to a data set's category ids."""

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
    """

    names: tuple[str, ...]
    category_ids: tuple[int | None, ...]

    def __post_init__(self):
        object.__setattr__(self, "names", tuple(self.names))
        object.__setattr__(self, "category_ids", tuple(self.category_ids))
        if len(self.names) != len(self.category_ids):
            raise ValueError(
                f"names and category_ids must be of one length; got {len(self.names)} and "
                f"{len(self.category_ids)}"
            )

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def label_of(self) -> Mapping[int, int]:
        """The model's label of each category id."""
        return {id_: label for label, id_ in enumerate(self.category_ids) if id_ is not None}

    @classmethod
    def from_categories(
        cls, categories: Iterable[Mapping], numbering: Numbering = "contiguous"
    ) -> Self:
        """Number COCO's `categories` (records with `id` and `name`).

        Args:
          categories: in any order; ids may have gaps and begin anywhere at or above 0.
          numbering: "contiguous" gives labels 0..K-1 in the order of the ids; "raw" takes the id
            itself as label and fills the gaps with holes, as DETR's published weights do.

        Raises:
          UserError: no categories, an id twice, or an id that is not a whole number ≥ 0.
        """
        names = _names_by_id(categories)
        if numbering == "contiguous":
            return cls(tuple(names.values()), tuple(names))
        if numbering != "raw":
            raise UserError(f'numbering must be "contiguous" or "raw"; got {numbering!r}')
        labels = range(max(names) + 1)
        return cls(
            tuple(names.get(label, HOLE) for label in labels),
            tuple(label if label in names else None for label in labels),
        )

    @classmethod
    def from_names(cls, names: Iterable[str]) -> Self:
        """Classes without a data set: category ids equal labels."""
        names = tuple(names)
        return cls(names, tuple(range(len(names))))

    def to_categories(self) -> list[dict]:
        """COCO's `categories`, holes left out."""
        pairs = zip(self.category_ids, self.names, strict=True)
        return [{"id": id_, "name": name} for id_, name in pairs if id_ is not None]

    def to_json(self) -> dict:
        return {"names": list(self.names), "category_ids": list(self.category_ids)}

    @classmethod
    def from_json(cls, record: Mapping) -> Self:
        return cls(tuple(record["names"]), tuple(record["category_ids"]))


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

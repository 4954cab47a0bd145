"""Several data sets in one, each taken as often as its weight says."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from functools import cached_property
from typing import Self

import numpy as np

from jaxseg.data.classes import Classes
from jaxseg.data.dataset import Dataset, Example
from jaxseg.data.epochs import generator
from jaxseg.errors import UserError

# Indices that no image has: the generators of an epoch's order and of each data set's passes.
_ORDER = 2**61
_PASSES = 2**61 + 1


class Mixture:
    """Data sets that are mixed by weight.

    Trained on (shuffled), an epoch has `epoch` images, of which each data set has the share of its
    weight. It goes through its own images in a new order each pass, and goes on where the epoch
    before it stopped: over the epochs its images come equally often, whatever its weight. Of an
    image that comes twice in an epoch the augmentation is drawn anew. What an epoch has is a pure
    function of (seed, epoch).

    Evaluated (not shuffled), it is all images once, one data set after the other.

    If all have the same classes, the labels are theirs. Otherwise each image carries the names of
    its own data set, so that captions ask for what that knows; detectors with a fixed list of
    classes cannot be trained on it.

    Args:
      parts: data sets and their weights.
      epoch: images of an epoch; None: as many as all data sets have together.

    Attributes:
      parts: the data sets.
      classes: theirs, or all that are named in any of them.
      sizes: int32 (n, 2).
      image_ids: "NUMBER/ID", the data set's number and its own id of the image.
      uniform: whether all have the same classes and no image has names of its own.

    Raises:
      UserError: no data set, a weight that is not above 0, or one so small that an epoch would not
        have an image of it.
    """

    def __init__(self, parts: Sequence[tuple[Dataset, float]], epoch: int | None = None):
        if not parts:
            raise UserError("a mixture needs one data set or more")
        self.parts = tuple(part for part, _ in parts)
        self._offsets = np.cumsum([0, *map(len, self.parts)])
        self.epoch = int(self._offsets[-1]) if epoch is None else epoch
        self._weights = [weight for _, weight in parts]
        self._edges = _edges(self._weights)
        for number, share in enumerate(np.diff(self._edges)):
            if not len(self.parts[number]):
                raise UserError(f"data set {number} of the mixture has no images")
            if share * self.epoch < 1:
                raise UserError(
                    f"data set {number} of the mixture has {float(share):.2g} of the weight, and "
                    f"no image of it would be in an epoch of {self.epoch}: give it more weight"
                )
        own = any(part.names_by_image for part in self.parts)
        first = self.parts[0].classes
        self.uniform = not own and all(part.classes == first for part in self.parts)

    @property
    def names_by_image(self) -> bool:
        """Whether images have names of their own."""
        return not self.uniform

    @cached_property
    def classes(self) -> Classes:
        if self.uniform:
            return self.parts[0].classes
        named = [part for part in self.parts if not part.names_by_image]
        names = (c["name"] for part in named for c in part.classes.to_categories())
        return Classes.from_names(dict.fromkeys(names))

    @cached_property
    def sizes(self) -> np.ndarray:
        return np.concatenate([np.asarray(part.sizes).reshape(-1, 2) for part in self.parts])

    @cached_property
    def image_ids(self) -> Sequence[str]:
        return [f"{n}/{id_}" for n, part in enumerate(self.parts) for id_ in part.image_ids]

    def __len__(self) -> int:
        return int(self._offsets[-1])

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(f"index must be in 0..{len(self) - 1}; got {index}")
        number = int(np.searchsorted(self._offsets, index, side="right")) - 1
        part = self.parts[number]
        example = part[int(index - self._offsets[number])]
        if self.uniform or example.names is not None:
            return example
        return replace(example, names=part.classes.names)

    def draws(self, seed: int, epoch: int) -> np.ndarray:
        """The images of an epoch in their order: int64 (epoch,).

        To the position of an image that has been taken in the epoch, the number of all images is
        added each time.
        """
        bounds = [[int(edge * self.epoch * e) for edge in self._edges] for e in (epoch, epoch + 1)]
        start, stop = np.diff(bounds, axis=1)
        stretches = [
            self._stretch(seed, number, int(start[number]), int(stop[number]))
            for number in range(len(self.parts))
        ]
        return generator(seed, epoch, _ORDER).permutation(np.concatenate(stretches))

    def _stretch(self, seed: int, number: int, start: int, stop: int) -> np.ndarray:
        """Images start to stop of one data set's passes, one after the other without end."""
        n, first = len(self.parts[number]), start // len(self.parts[number])
        passes = [
            generator(seed, turn, _PASSES + number).permutation(n)
            + self._offsets[number]
            + (turn - first) * len(self)
            for turn in range(first, -(-stop // n))
        ]
        return np.concatenate(passes)[start - first * n : stop - first * n] if passes else []

    def coco(self) -> dict:
        """The ground truth of all, with `image_ids`; categories of one name are one."""
        label_of = {name: label for label, name in enumerate(self.classes.names)}
        images, annotations = [], []
        for number, part in enumerate(self.parts):
            truth = part.coco()
            ids = {
                c["id"]: c["id"] if self.uniform else label_of.get(c["name"])
                for c in truth["categories"]
            }
            images += [{**i, "id": f"{number}/{i['id']}"} for i in truth["images"]]
            annotations += [
                {
                    **a,
                    "id": f"{number}/{a['id']}",
                    "image_id": f"{number}/{a['image_id']}",
                    "category_id": ids[a["category_id"]],
                }
                for a in truth["annotations"]
                if ids[a["category_id"]] is not None
            ]
        categories = self.classes.to_categories()
        return {"info": {}, "images": images, "annotations": annotations, "categories": categories}

    def without_masks(self) -> Self:
        bare = [part.without_masks() for part in self.parts]
        return type(self)(list(zip(bare, self._weights, strict=True)), self.epoch)


def _edges(weights: Sequence[float]) -> list[Fraction]:
    """Where the shares of an epoch lie in [0, 1]; exact, so that all hosts round alike."""
    for number, weight in enumerate(weights):
        if not (isinstance(weight, int | float) and 0 < weight < float("inf")):
            raise UserError(f"the weight of data set {number} must be above 0; got {weight!r}")
    exact = [Fraction(str(weight)) for weight in weights]
    edges = [Fraction(0)]
    for weight in exact:
        edges.append(edges[-1] + weight / sum(exact))
    return edges

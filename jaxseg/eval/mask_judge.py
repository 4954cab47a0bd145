"""Whether and how a data set judges masks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jaxseg.data.panoptic import Partition
from jaxseg.errors import UserError
from jaxseg.eval.categories import CategoryIds
from jaxseg.eval.panoptic import Record, match_segments
from jaxseg.predict.masks import ImageMasks


@dataclass(frozen=True)
class MaskJudge:
    """How masks are judged.

    Attributes:
      instances: whether each detection's mask is compared, by COCO's metrics.
      panoptic: position of an image to its ground truth, for panoptic quality; None without.
      category_ids: of each label of the model; None where it has none.
      things: of each label whether it is a thing; None where it is no category.
      exact: whether canvases are exact, so that an image is taken out of its canvas.
    """

    instances: bool
    panoptic: Callable[[int], Partition] | None
    category_ids: CategoryIds
    things: tuple[bool | None, ...]
    exact: bool

    def matches(self, masks: ImageMasks, index: int) -> list[Record]:
        """What panoptic quality counts in one image."""
        found = masks.panoptic(self.things)
        segments = [
            {"id": n, "category_id": self.category_ids[label]}
            for n, label in enumerate(found.labels.tolist())
        ]
        return match_segments(self.panoptic(index), Partition(found.ids, segments))


def mask_judge(
    dataset: Any, truth: Mapping[str, Any], category_ids: CategoryIds, exact: bool
) -> MaskJudge | None:
    """The judge that a data set provides; None if it has boxes alone.

    Args:
      truth: the data set's ground truth in COCO's form.

    Raises:
      UserError: some of its objects have masks and others none.
    """
    isthing = {c["id"]: bool(c.get("isthing", 1)) for c in truth["categories"]}
    things = tuple(isthing.get(category) for category in category_ids)
    panoptic = getattr(dataset, "panoptic", None)
    if panoptic is None:
        bare = [a["id"] for a in truth["annotations"] if not a.get("segmentation")]
        if len(bare) == len(truth["annotations"]):
            return None
        if bare:
            raise UserError(
                f"the annotation {bare[0]!r} of the data set has no mask, while others have one: "
                "add it, or judge boxes alone (`jaxseg eval --boxes`)"
            )
    return MaskJudge(panoptic is None, panoptic, category_ids, things, exact)

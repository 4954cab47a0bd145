"""Whether and how a data set judges masks."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from jaxseg.data.panoptic import Partition
from jaxseg.data.segmentation import segmentation_problem
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
      UserError: a judged object has no mask, while others have one, or none that can be used.
    """
    isthing = {c["id"]: bool(c.get("isthing", 1)) for c in truth["categories"]}
    things = tuple(isthing.get(category) for category in category_ids)
    panoptic = getattr(dataset, "panoptic", None)
    if panoptic is None:
        if not any(a.get("segmentation") for a in truth["annotations"]):
            return None
        _check_masks(truth, set(dataset.image_ids))
    return MaskJudge(panoptic is None, panoptic, category_ids, things, exact)


def _check_masks(truth: Mapping[str, Any], judged: Collection) -> None:
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    for annotation in truth["annotations"]:
        image = annotation["image_id"]
        if image not in judged:
            continue
        mask, wrong = annotation.get("segmentation"), None
        if not mask:
            wrong = "has no mask, while others have one"
        elif problem := segmentation_problem(mask, *sizes[image]):
            wrong = f"has a mask that cannot be judged: {problem.text}"
        if wrong:
            raise UserError(
                f"the annotation {annotation['id']!r} of image {image!r} {wrong}. Correct it or "
                "take it out of the ground truth (`jaxseg doctor` lists all such); to judge boxes "
                "alone, run `jaxseg eval --boxes`"
            )

"""The set criterion: match predictions with objects, then add up the weighted losses.

Everything that weighs, masks and divides stands here. `num_boxes` is the number of objects of
the whole global batch (at least 1), and the class loss is one weighted mean over it: under one
jitted loss these are what the original reaches by averaging over processes. The original's
class loss is a mean per process instead; the two agree where every process has as many matched
queries, and differ by rounding-sized weights elsewhere.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from jaxseg.losses.boxes import giou_loss, l1
from jaxseg.losses.classification import softmax_cross_entropy
from jaxseg.losses.masks import dice, mask_focal
from jaxseg.losses.matching import Matching, match
from jaxseg.ops.boxes import cxcywh_to_xyxy, generalized_iou
from jaxseg.ops.masks import resize_bilinear
from jaxseg.structures import DetectorOutput, Targets
from jaxseg.typing import Array, Float, Int


@flax.struct.dataclass
class Losses:
    """A total to differentiate, and every term before its weight (logged ones included)."""

    total: Float[Array, ""]
    terms: dict[str, Float[Array, ""]]


class Normalizers(NamedTuple):
    """What sums are divided by: the objects of each image of the whole batch."""

    counts: Int[Array, " b"]

    @property
    def num_boxes(self) -> Float[Array, ""]:
        """All objects, at least 1."""
        return jnp.maximum(self.counts.sum().astype(jnp.float32), 1.0)

    @property
    def num_images(self) -> int:
        """Images of the whole batch."""
        return len(self.counts)

    def matched(self, num_queries: int) -> Float[Array, " b"]:
        """Pairs that matching makes in each image."""
        return jnp.minimum(self.counts, num_queries).astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class SoftmaxClasses:
    """DETR's classes: one softmax with no-object as its last entry, down-weighted."""

    no_object_weight: float = 0.1

    def cost(self, logits: Float[Array, "q k"], labels: Int[Array, " t"]) -> Float[Array, "q t"]:
        """Minus the probability of each target's class."""
        return -jax.nn.softmax(logits.astype(jnp.float32))[:, labels]

    def loss(self, logits: Float[Array, "b q k"], classes: Int[Array, "b q"]) -> Float[Array, ""]:
        """Weighted sum of the cross-entropy; `classes` is the last class where nothing is."""
        no_object = logits.shape[-1] - 1
        weight = jnp.where(classes == no_object, self.no_object_weight, 1.0)
        return (weight * softmax_cross_entropy(logits, classes)).sum()

    def normalizer(self, normalizers: Normalizers, num_queries: int) -> Float[Array, ""]:
        """Sum of the weights over all queries: matched ones count 1."""
        matched = normalizers.matched(num_queries)
        return (matched + (num_queries - matched) * self.no_object_weight).sum()


@dataclasses.dataclass(frozen=True)
class SetCriterion:
    """DETR's losses (arXiv 2005.12872, sections 3.1 and A.2).

    Attributes:
      classes: how classes cost and are scored.
      cost_class, cost_bbox, cost_giou: weights of the matching cost.
      loss_ce, loss_bbox, loss_giou: weights of the losses, the same in every layer.
      loss_mask, loss_dice: weights of the mask losses (last layer, where masks are predicted).
      aux_loss: whether earlier layers have losses too, each with its own matching.
    """

    classes: SoftmaxClasses = SoftmaxClasses()
    cost_class: float = 1.0
    cost_bbox: float = 5.0
    cost_giou: float = 2.0
    loss_ce: float = 1.0
    loss_bbox: float = 5.0
    loss_giou: float = 2.0
    loss_mask: float = 1.0
    loss_dice: float = 1.0
    aux_loss: bool = True

    def __call__(
        self, output: DetectorOutput, targets: Targets, normalizers: Normalizers | None = None
    ) -> Losses:
        """Losses of one batch, in float32.

        With the `normalizers` of a larger batch, the totals of its parts add up to its total.
        """
        first = 0 if self.aux_loss else -1
        logits, boxes = output.logits[first:], output.boxes[first:]
        if normalizers is None:
            normalizers = self.normalizers(targets)
        matching = self.match(logits, boxes, targets)
        by_layer = jax.vmap(self._layer, (0, 0, 0, None, None))(
            logits, boxes, matching, targets, normalizers
        )
        last = len(logits) - 1
        terms = {
            name if layer == last else f"{name}_{layer}": values[layer]
            for layer in (last, *range(last))
            for name, values in by_layer.items()
            if layer == last or name != "class_error"
        }
        masks = output.extras.get("masks")
        if masks is not None:
            final = Matching(matching.query[-1], matching.mask[-1])
            terms |= self._masks(masks, final, targets, normalizers)
        return Losses(self._total(terms), terms)

    def normalizers(self, targets: Targets) -> Normalizers:
        """What the losses of this batch are divided by."""
        return Normalizers(targets.mask.sum(-1))

    def match(
        self, logits: Float[Array, "l b q k"], boxes: Float[Array, "l b q 4"], targets: Targets
    ) -> Matching:
        """Match every layer and image on its own; no gradient passes."""

        def one(logits, boxes, labels, target_boxes, mask):
            return match(self._cost(logits, boxes, labels, target_boxes), mask)

        per_image = jax.vmap(one)
        per_layer = jax.vmap(per_image, (0, 0, None, None, None))
        stopped = jax.lax.stop_gradient((logits, boxes))
        return per_layer(*stopped, targets.labels, targets.boxes, targets.mask)

    def _cost(self, logits, boxes, labels, target_boxes) -> Float[Array, "q t"]:
        boxes, target_boxes = boxes.astype(jnp.float32), target_boxes.astype(jnp.float32)
        pairs = boxes[:, None], target_boxes[None]
        giou = generalized_iou(cxcywh_to_xyxy(pairs[0]), cxcywh_to_xyxy(pairs[1]))
        return (
            self.cost_bbox * l1(*pairs)
            + self.cost_class * self.classes.cost(logits, labels)
            - self.cost_giou * giou
        )

    def _layer(self, logits, boxes, matching: Matching, targets: Targets, normalizers):
        """All terms of one layer: logits (b, q, k), boxes (b, q, 4)."""
        no_object = logits.shape[-1] - 1
        image = jnp.arange(len(logits))[:, None]
        # Unmatched slots write out of bounds, which JAX drops.
        query = jnp.where(matching.mask, matching.query, logits.shape[1])
        classes = jnp.full(logits.shape[:2], no_object).at[image, query].set(targets.labels)
        matched_boxes = boxes[image, matching.query].astype(jnp.float32)
        # Padding is replaced before the loss, so that no gradient of a degenerate pair passes.
        target_boxes = jnp.where(matching.mask[..., None], targets.boxes, matched_boxes)
        target_boxes = jax.lax.stop_gradient(target_boxes.astype(jnp.float32))

        def box_term(loss):
            return jnp.where(matching.mask, loss(matched_boxes, target_boxes), 0.0).sum()

        predicted = logits.argmax(-1)
        count = (predicted != no_object).sum(-1) - targets.mask.sum(-1)
        hits = (predicted[image, matching.query] == targets.labels) & matching.mask
        class_weight = self.classes.normalizer(normalizers, logits.shape[1])
        return {
            "loss_ce": self.classes.loss(logits, classes) / class_weight,
            "loss_bbox": box_term(l1) / normalizers.num_boxes,
            "loss_giou": box_term(giou_loss) / normalizers.num_boxes,
            "cardinality_error": jnp.abs(count).sum() / normalizers.num_images,
            "class_error": _class_error(hits, matching.mask, normalizers, logits.shape[1]),
        }

    def _masks(self, masks: Float[Array, "b q h w"], matching: Matching, targets, normalizers):
        if targets.masks is None:
            raise ValueError("the model predicts masks; targets.masks is None: load masks too")
        image = jnp.arange(len(masks))[:, None]
        logits = resize_bilinear(masks[image, matching.query], targets.masks.shape[-2:])
        wanted = targets.masks.astype(jnp.float32)

        def term(loss):
            return jnp.where(matching.mask, loss(logits, wanted), 0.0).sum() / normalizers.num_boxes

        return {"loss_mask": term(mask_focal), "loss_dice": term(dice)}

    def _total(self, terms: Mapping[str, Float[Array, ""]]) -> Float[Array, ""]:
        names = ("loss_ce", "loss_bbox", "loss_giou", "loss_mask", "loss_dice")
        weights = {name: getattr(self, name) for name in names}
        return sum(
            weights[base] * value
            for name, value in terms.items()
            if (base := name.rstrip("0123456789").rstrip("_")) in weights
        )


def _class_error(hits, mask, normalizers: Normalizers, num_queries: int) -> Float[Array, ""]:
    """Percentage of matched queries whose best class is wrong; 100 where nothing is matched."""
    wrong = (mask & ~hits).sum()
    matched = normalizers.matched(num_queries).sum()
    nothing = 100.0 * len(mask) / normalizers.num_images
    return jnp.where(matched > 0, 100.0 * wrong / jnp.maximum(matched, 1), nothing)

"""The set criterion: match predictions with objects, then add up the weighted losses.

Everything that weighs, masks and divides stands here. `num_boxes` is the number of objects of
the whole global batch (at least 1), and DETR's class loss is one weighted mean over it: under one
jitted loss these are what the original reaches by averaging over processes. The original's
class loss is a mean per process instead; the two agree where every process has as many matched
queries, and differ by rounding-sized weights elsewhere. DN-DETR's denoising losses are divided
by the global number of noised objects too, where the original takes each process's own.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Literal

import flax.struct
import jax
import jax.numpy as jnp

from jaxseg.losses.boxes import giou_loss, l1
from jaxseg.losses.classes import ClassScoring, FocalClasses, SoftmaxClasses, TokenClasses
from jaxseg.losses.masks import dice, mask_focal
from jaxseg.losses.matching import Matching, match, match_cheapest
from jaxseg.losses.normalizers import Normalizers
from jaxseg.ops.boxes import cxcywh_to_xyxy, generalized_iou
from jaxseg.ops.masks import resize_bilinear
from jaxseg.structures import Denoised, DetectorOutput, Predictions, Targets
from jaxseg.typing import Array, Float

__all__ = [
    "FirstStage",
    "FocalClasses",
    "Losses",
    "Normalizers",
    "SetCriterion",
    "SoftmaxClasses",
    "TokenClasses",
]

MATCHERS = {"hungarian": match, "cheapest": match_cheapest}
WEIGHTED = re.compile(r"(loss_(?:ce|bbox|giou|mask|dice))(?:_(.*))?")


@flax.struct.dataclass
class Losses:
    """A total to differentiate, and every term before its weight (logged ones included)."""

    total: Float[Array, ""]
    terms: dict[str, Float[Array, ""]]


@dataclasses.dataclass(frozen=True)
class FirstStage:
    """Losses of the encoder's own predictions, with a matching of their own.

    Attributes:
      suffix: of its terms' names.
      class_agnostic: every object has the label 0.
      weight: beside the weights of the other losses.
      boxes: whether boxes are scored too; without, they still count in the matching.
    """

    suffix: str
    class_agnostic: bool = False
    weight: float = 1.0
    boxes: bool = True


@dataclasses.dataclass(frozen=True)
class SetCriterion:
    """DETR's losses (arXiv 2005.12872, sections 3.1 and A.2) and its successors'.

    Attributes:
      classes: how classes cost and are scored.
      cost_class, cost_bbox, cost_giou: weights of the matching cost.
      loss_ce, loss_bbox, loss_giou: weights of the losses, the same in every layer.
      loss_mask, loss_dice: weights of the mask losses (last layer, where masks are predicted).
      aux_loss: whether earlier layers have losses too, each with its own matching.
      giou_epsilon: see `ops.boxes.generalized_iou`.
      nonfinite_cost: what stands for a cost of the matching that is no number or infinite; None
        leaves it dearer than all that can be avoided.
      matcher: "hungarian"; or "cheapest", which lets each target take its cheapest query.
      first_stage: losses of the encoder's predictions, for models that make them.
      denoising: losses of noised targets, for models that train with them.
    """

    classes: ClassScoring = dataclasses.field(default_factory=SoftmaxClasses)
    cost_class: float = 1.0
    cost_bbox: float = 5.0
    cost_giou: float = 2.0
    loss_ce: float = 1.0
    loss_bbox: float = 5.0
    loss_giou: float = 2.0
    loss_mask: float = 1.0
    loss_dice: float = 1.0
    aux_loss: bool = True
    giou_epsilon: float = 0.0
    nonfinite_cost: float | None = None
    matcher: Literal["hungarian", "cheapest"] = "hungarian"
    first_stage: FirstStage | None = None
    denoising: bool = False

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
        by_layer = jax.vmap(self._matched, (0, 0, 0, None, None))(
            logits, boxes, matching, targets, normalizers
        )
        terms = _by_layer(by_layer, len(logits), last_only=("class_error",))
        if self.first_stage is not None and "first_stage" in output.extras:
            terms |= self._first_stage(output.extras["first_stage"], targets, normalizers)
        if self.denoising:
            terms |= self._denoising(output, len(logits), first, targets, normalizers)
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
        if self.matcher not in MATCHERS:
            raise ValueError(f"no matcher {self.matcher!r}; there are {', '.join(MATCHERS)}")

        def one(logits, boxes, wanted, target_boxes, mask):
            return MATCHERS[self.matcher](self._cost(logits, boxes, wanted, target_boxes), mask)

        per_image = jax.vmap(one)
        per_layer = jax.vmap(per_image, (0, 0, None, None, None))
        stopped = jax.lax.stop_gradient((logits, boxes))
        return per_layer(*stopped, self.classes.wanted(targets), targets.boxes, targets.mask)

    def match_first_stage(self, found: Predictions, targets: Targets) -> Matching:
        """Match the encoder's predictions."""
        if self.first_stage.class_agnostic:
            targets = targets.replace(labels=jnp.zeros_like(targets.labels))
        matching = self.match(found.logits[None], found.boxes[None], targets)
        return jax.tree.map(lambda x: x[0], matching)

    def _cost(self, logits, boxes, wanted, target_boxes) -> Float[Array, "q t"]:
        boxes, target_boxes = boxes.astype(jnp.float32), target_boxes.astype(jnp.float32)
        pairs = boxes[:, None], target_boxes[None]
        corners = (cxcywh_to_xyxy(x) for x in pairs)
        cost = (
            self.cost_bbox * l1(*pairs)
            + self.cost_class * self.classes.cost(logits, wanted)
            - self.cost_giou * generalized_iou(*corners, self.giou_epsilon)
        )
        if self.nonfinite_cost is None:
            return cost
        return jnp.where(jnp.isfinite(cost), cost, self.nonfinite_cost)

    def _matched(self, logits, boxes, matching: Matching, targets: Targets, normalizers):
        """All terms of one set of predictions: logits (b, q, k), boxes (b, q, 4)."""
        image = jnp.arange(len(logits))[:, None]
        # Unmatched slots write out of bounds, which JAX drops.
        query = jnp.where(matching.mask, matching.query, logits.shape[1])
        wanted = self.classes.wanted(targets)
        classes = self.classes.assigned(logits, wanted, image, query)
        class_weight = self.classes.normalizer(normalizers, logits.shape[1])
        hits = self.classes.hits(logits[image, matching.query], wanted) & matching.mask
        box_terms = self._box_terms(boxes[image, matching.query], targets.boxes, matching.mask)
        return {
            "loss_ce": self.classes.loss(logits, classes).sum() / class_weight,
            **{name: x.sum() / normalizers.num_boxes for name, x in box_terms.items()},
            "cardinality_error": _cardinality_error(
                self.classes.found(logits), targets, normalizers
            ),
            "class_error": _class_error(hits, matching.mask, normalizers, logits.shape[1]),
        }

    def _box_terms(self, boxes, target_boxes, mask) -> dict[str, Float[Array, "b t"]]:
        """Each pair's losses, 0 where there is none; xy and hw are parts of bbox, to be logged."""
        boxes = boxes.astype(jnp.float32)
        # Padding is replaced before the loss, so that no gradient of a degenerate pair passes.
        wanted = jnp.where(mask[..., None], target_boxes.astype(jnp.float32), boxes)
        wanted = jax.lax.stop_gradient(wanted)
        stopped = jax.lax.stop_gradient(boxes)
        terms = {
            "loss_bbox": l1(boxes, wanted),
            "loss_giou": giou_loss(boxes, wanted, self.giou_epsilon),
            "loss_xy": l1(stopped[..., :2], wanted[..., :2]),
            "loss_hw": l1(stopped[..., 2:], wanted[..., 2:]),
        }
        return {name: jnp.where(mask, x, 0.0) for name, x in terms.items()}

    def _first_stage(self, found: Predictions, targets: Targets, normalizers) -> dict:
        if self.first_stage.class_agnostic:
            targets = targets.replace(labels=jnp.zeros_like(targets.labels))
        matching = self.match_first_stage(found, targets)
        terms = self._matched(found.logits, found.boxes, matching, targets, normalizers)
        del terms["class_error"]
        return {f"{name}_{self.first_stage.suffix}": value for name, value in terms.items()}

    def _denoising(self, output, layers: int, first: int, targets: Targets, normalizers) -> dict:
        """Terms of every layer; zeros where the output has no noised targets (in evaluation)."""
        found = output.extras.get("denoised")
        if found is None or targets.mask.shape[1] == 0:
            zeros = jnp.zeros(layers)
            by_layer = {f"{name}_dn": zeros for name in DENOISING_TERMS}
        else:
            by_layer = jax.vmap(self._denoised, (0, 0, None, None, None))(
                found.logits[first:], found.boxes[first:], found, targets, normalizers
            )
        return _by_layer(by_layer, layers)

    def _denoised(self, logits, boxes, found: Denoised, targets: Targets, normalizers) -> dict:
        """Terms of one layer; every image is divided by its own number of groups."""
        image = jnp.arange(len(logits))[:, None]
        labels, wanted = targets.labels[image, found.target], targets.boxes[image, found.target]
        no_object = self.classes.no_object(logits.shape[-1])
        classes = jnp.where(found.positive, labels, no_object)
        share = 1 / (normalizers.num_boxes * jnp.maximum(found.groups, 1))[:, None]
        class_loss = jnp.where(found.scored, self.classes.loss(logits, classes), 0.0)
        box_terms = self._box_terms(boxes, wanted, found.positive)
        wrong = (logits.argmax(-1) != labels) & found.positive
        error = 100 * wrong.sum() / jnp.maximum(found.positive.sum(), 1)
        return {
            "loss_ce_dn": (class_loss * share).sum(),
            **{f"{name}_dn": (x * share).sum() for name, x in box_terms.items()},
            "cardinality_error_dn": _cardinality_error(
                self.classes.found(logits) & found.scored, targets, normalizers
            ),
            "class_error_dn": error * len(logits) / normalizers.num_images,
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
        total = 0.0
        for name, value in terms.items():
            if (match := WEIGHTED.fullmatch(name)) is None:
                continue
            base, suffix = match.groups()
            weight = getattr(self, base)
            if self.first_stage is not None and suffix == self.first_stage.suffix:
                weight *= self.first_stage.weight
                weight *= base == "loss_ce" or self.first_stage.boxes
            total += weight * value
        return total


DENOISING_TERMS = (
    "loss_ce",
    "loss_bbox",
    "loss_giou",
    "loss_xy",
    "loss_hw",
    "cardinality_error",
    "class_error",
)


def _by_layer(terms: Mapping[str, Float[Array, " l"]], layers: int, last_only=()) -> dict:
    """Stacked terms under their own names for the last layer, with its number for the others."""
    last = layers - 1
    return {
        name if layer == last else f"{name}_{layer}": values[layer]
        for layer in (last, *range(last))
        for name, values in terms.items()
        if layer == last or name not in last_only
    }


def _cardinality_error(found, targets: Targets, normalizers) -> Float[Array, ""]:
    """How far the number of queries that found something lies from that of the objects."""
    return jnp.abs(found.sum(-1) - targets.mask.sum(-1)).sum() / normalizers.num_images


def _class_error(hits, mask, normalizers: Normalizers, num_queries: int) -> Float[Array, ""]:
    """Percentage of matched queries whose best class is wrong; 100 where nothing is matched."""
    wrong = (mask & ~hits).sum()
    matched = normalizers.matched(num_queries).sum()
    nothing = 100.0 * len(mask) / normalizers.num_images
    return jnp.where(matched > 0, 100.0 * wrong / jnp.maximum(matched, 1), nothing)

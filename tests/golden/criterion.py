"""Kinds `*/criterion`: matcher and losses on given predictions."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.losses.criterion import FirstStage, FocalClasses, SetCriterion, SoftmaxClasses
from jaxseg.losses.matching import Matching
from jaxseg.models.detr.heads import sigmoid_detections
from jaxseg.structures import Denoised, DetectorOutput, Features, Predictions, Targets
from tests.golden.common import compute, expect
from tests.quick import quick_jit

GROUPS = {"labels": ["ce"], "boxes": ["bbox", "giou"], "masks": ["mask", "dice"]}
FIRST_STAGES = ("enc", "interm")
MATCHERS = {"hungarian": "hungarian", "minsum": "cheapest"}


def criterion(case, inputs) -> dict:
    """Matchings, terms, total and gradients of every run."""
    config = case.spec["config"]
    calls = {"criterion": _criterion_run, "matcher": _matcher_run, "postprocess": _postprocess_run}
    return {
        name: calls[run["call"]](config, run, inputs) for name, run in case.spec["runs"].items()
    }


def _criterion_run(config, run, inputs) -> dict:
    given = {name: jnp.asarray(inputs[source]) for name, source in run["inputs"].items()}
    targets = pad_targets(run["targets"], inputs)
    options = run["options"]
    train = options.get("train", True)
    objective = build_criterion(config, options["losses"], options.get("matcher", "hungarian"))

    def losses(given):
        return objective(stack_layers(given, config if train else None, targets), targets)

    differentiated = options.get("gradient_of") == "total"
    result, gradient = compute(
        losses, given, (lambda result: result.total) if differentiated else None
    )
    tensors = {f"loss.{name}": value for name, value in result.terms.items()}
    tensors |= {"total": result.total} | _matches(objective, config, given, targets)
    return tensors | {f"grad/{name}": value for name, value in (gradient or {}).items()}


def _matcher_run(config, run, inputs) -> dict:
    given = {name: jnp.asarray(inputs[source]) for name, source in run["inputs"].items()}
    objective = build_criterion(config, ["labels", "boxes"], run["options"]["matcher"])
    return _matches(objective, config, given, pad_targets(run["targets"], inputs))


def _postprocess_run(config, run, inputs) -> dict:
    given = {name: jnp.asarray(inputs[source]) for name, source in run["inputs"].items()}
    expect(run["options"], clip_boxes=False)
    found = sigmoid_detections(
        stack_layers(given), given["orig_size"], run["options"]["num_select"]
    )
    return name_detections(found)


def name_detections(found) -> dict:
    """`scores.I`, `labels.I` and `boxes.I` of every image."""
    return {
        f"{name}.{i}": getattr(found, name)[i]
        for name in ("scores", "labels", "boxes")
        for i in range(len(found.scores))
    }


def build_criterion(config, losses=("labels", "boxes"), matcher="hungarian") -> SetCriterion:
    """The criterion of a case; losses that a run leaves out weigh nothing."""
    asked = [f"loss_{name}" for loss in losses for name in GROUPS.get(loss, ())]
    weights = {f"loss_{n}": 0.0 for names in GROUPS.values() for n in names}
    stage = _first_stage(config)
    for name, weight in config["loss_weights"].items():
        if stage is not None and name.endswith(f"_{stage.suffix}"):
            continue
        plain = name.removeprefix("tgt_")
        base = "_".join(plain.split("_")[:2])
        if config["loss_weights"][base] != weight:
            raise ValueError(f"weights differ between layers or stages: {name}")
        weights[base] = float(weight) if base in asked else 0.0
    return SetCriterion(
        classes=_classes(config),
        cost_class=float(config["set_cost_class"]),
        cost_bbox=float(config["set_cost_bbox"]),
        cost_giou=float(config["set_cost_giou"]),
        giou_epsilon=float(config["giou_eps"]),
        matcher=MATCHERS[matcher],
        first_stage=stage,
        denoising="denoising" in config,
        **weights,
    )


def _classes(config):
    expect(config, world_size=1)
    if config["classification"] == "sigmoid focal":
        expect(config, match_class_cost="focal", match_log_eps=1e-8, no_object_class=None)
        expect(config, focal_gamma=2.0, cardinality_counts="argmax != last class output")
        return FocalClasses(float(config["focal_alpha"]), float(config["focal_gamma"]))
    expect(config, classification="softmax cross-entropy", match_class_cost="softmax probability")
    expect(config, no_object_class=config["num_classes"])
    expect(config, mask_focal_alpha=0.25, mask_focal_gamma=2.0, dice_smooth=1.0)
    return SoftmaxClasses(float(config["eos_coef"]))


def _first_stage(config) -> FirstStage | None:
    found = [s for s in FIRST_STAGES if f"loss_ce_{s}" in config["loss_weights"]]
    if not found:
        return None
    expect(config, encoder_target_label=0)
    weights, suffix = config["loss_weights"], found[0]
    factor = weights[f"loss_ce_{suffix}"] / weights["loss_ce"]
    boxes = weights[f"loss_bbox_{suffix}"] != 0
    for name in ("loss_bbox", "loss_giou"):
        if weights[f"{name}_{suffix}"] != factor * boxes * weights[name]:
            raise ValueError(f"the first stage's weights are no multiple of the others: {name}")
    return FirstStage(suffix, "encoder_target_label" in config, factor, boxes)


def stack_layers(given: dict, config: dict | None = None, targets=None) -> DetectorOutput:
    """Predictions of all layers, the last one last; what the criterion does not read is empty.

    Args:
      config: of a case with denoising, whose `dn.*` count.
    """

    def stacked(name):
        last = given[f"pred_{name}"][None]
        aux = given.get(f"aux.pred_{name}")
        return last if aux is None else jnp.concatenate([aux, last])

    logits = stacked("logits")
    extras = {"masks": given["pred_masks"]} if "pred_masks" in given else {}
    for suffix in FIRST_STAGES:
        if f"{suffix}.pred_logits" in given:
            extras["first_stage"] = Predictions(
                given[f"{suffix}.pred_logits"], given[f"{suffix}.pred_boxes"]
            )
    if config is not None and "dn.pred_logits" in given:
        extras["denoised"] = _denoised(given, config["denoising"], targets)
    return DetectorOutput(
        logits=logits,
        boxes=stacked("boxes"),
        states=jnp.zeros((*logits.shape[:3], 0)),
        memory=jnp.zeros((logits.shape[1], 0, 0)),
        features=Features((), ()),
        position=jnp.zeros((logits.shape[1], 0, 0)),
        extras=extras,
    )


def _denoised(given: dict, denoising: dict, targets: Targets) -> Denoised:
    """Slots from `dn.*` of layout (layer, b, group, negative, target, …)."""
    expect(denoising, empty_slots_in_class_loss=True, loss_divisor="groups * num_boxes")
    logits, boxes = given["dn.pred_logits"], given["dn.pred_boxes"]
    layers, b, groups, halves, slots = logits.shape[:5]
    grid = (b, groups, halves, slots)
    target = jnp.broadcast_to(jnp.arange(slots), grid)
    positive = jnp.broadcast_to(targets.mask[:, None, None, :slots], grid)
    positive &= (jnp.arange(halves) == 0)[:, None]
    return Denoised(
        logits=logits.reshape(layers, b, -1, logits.shape[-1]),
        boxes=boxes.reshape(layers, b, -1, 4),
        target=target.reshape(b, -1),
        positive=positive.reshape(b, -1),
        scored=jnp.ones((b, groups * halves * slots), bool),
        groups=jnp.full(b, groups),
    )


def pad_targets(targets: list[dict], inputs: dict, spare: int = 3) -> Targets:
    """Targets in more slots than any image needs, masks on the largest image's canvas."""
    images = [{name: np.asarray(inputs[key]) for name, key in one.items()} for one in targets]
    slots = max(len(image["labels"]) for image in images) + spare
    labels = np.zeros((len(images), slots), np.int32)
    boxes = np.zeros((len(images), slots, 4), np.float32)
    mask = np.zeros((len(images), slots), bool)
    masks = None
    if "masks" in images[0]:
        size = [max(image["masks"].shape[axis] for image in images) for axis in (1, 2)]
        masks = np.zeros((len(images), slots, *size), bool)
    for i, image in enumerate(images):
        n = len(image["labels"])
        labels[i, :n], boxes[i, :n], mask[i, :n] = image["labels"], image["boxes"], True
        if masks is not None:
            h, w = image["masks"].shape[1:]
            masks[i, :n, :h, :w] = image["masks"]
    return jax.tree.map(jnp.asarray, Targets(labels, boxes, mask, masks))


def _matches(objective: SetCriterion, config, given, targets) -> dict:
    output = stack_layers(given)
    return name_matches(objective, output, targets, config["layers"])


def name_matches(objective, output: DetectorOutput, targets: Targets, layers: int) -> dict:
    """`match.layerL.imageI`, and those of the encoder's predictions."""
    matching = quick_jit(objective.match)(output.logits, output.boxes, targets)
    named = {}
    for i in range(len(output.logits)):
        layer = layers - len(output.logits) + i
        one = jax.tree.map(lambda x, i=i: x[i], matching)
        named |= _pairs(one, f"layer{layer}", objective.matcher)
    if "first_stage" in output.extras:
        found = quick_jit(objective.match_first_stage)(output.extras["first_stage"], targets)
        named |= _pairs(found, objective.first_stage.suffix, objective.matcher)
    return named


def _pairs(matching: Matching, name: str, matcher: str) -> dict:
    """(2, pair) of each image, predictions increasing; of the cheapest matcher, targets."""
    named = {}
    for image, (query, mask) in enumerate(zip(*map(np.asarray, matching), strict=True)):
        (target,) = np.nonzero(mask)
        pairs = np.stack([query[target], target])
        order = np.argsort(pairs[0 if matcher == "hungarian" else 1])
        named[f"match.{name}.image{image}"] = pairs[:, order]
    return named


KINDS = {
    "detr/criterion": criterion,
    "deformable_detr/criterion": criterion,
    "dino/criterion": criterion,
}

"""Kinds `detr/*`: model, criterion, post-processing."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.losses.criterion import SetCriterion, SoftmaxClasses
from jaxseg.models.detr import detr as build_detr
from jaxseg.models.detr.heads import instance_masks, softmax_detections
from jaxseg.nn.position import SinePosition
from jaxseg.structures import DetectorOutput, Features, Targets
from jaxseg_convert_torch import load_state_dict, to_state_dict
from tests.golden.common import by_name, case_images, expect, nchw, padding
from tests.goldens import regen


def model(case, inputs) -> dict:
    """`detr/model`: every stage's output, and gradients of the case's scalar."""
    config = case.spec["config"]
    detector = build(config)
    params = load_state_dict("detr", case.weights(), detector)
    images = case_images(case.spec, inputs)

    def forward(params):
        return detector.apply({"params": params}, images)

    tensors = describe(jax.jit(forward)(params))
    if "gradient" in config:
        scalar = gradient_scalar(config["gradient"])
        gradient = jax.jit(jax.grad(lambda params: scalar(name_outputs(forward(params)))))(params)
        official = to_state_dict("detr", gradient)
        tensors |= {f"grad/{key}": value for key, value in official.items()}
    return {None: tensors}


def build(config):
    """The DETR of a case's config."""
    expect(config, backbone_norm="frozen batch norm", backbone_norm_eps=1e-5, backbone_stages=[3])
    expect(config, layer_norm_eps=1e-5, decoder_final_norm=True, bbox_mlp_layers=3, masks=False)
    expect(config, train=False, position_normalize=True, position_axis_order=["y", "x"])
    expect(config, class_outputs=config["num_classes"] + 1, no_object_class=config["num_classes"])
    detector = build_detr(
        depth=int(config["backbone"].removeprefix("resnet")),
        dilation=config["dilation"],
        width=config["hidden_dim"],
        num_heads=config["nheads"],
        feedforward=config["dim_feedforward"],
        encoder_layers=config["enc_layers"],
        decoder_layers=config["dec_layers"],
        dropout=float(config["dropout"]),
        activation=config["activation"],
        pre_norm=config["pre_norm"],
        position=config["position_embedding"],
        num_queries=config["num_queries"],
        num_classes=config["num_classes"],
    )
    return detector.clone(position=position(config)) if "position_scale" in config else detector


def position(config) -> SinePosition:
    """The sine embedding of a case's config."""
    return SinePosition(
        features=2 * config["position_features_per_axis"],
        temperature=tuple(float(config["position_temperature"][axis]) for axis in "hw"),
        offset=float(config["position_offset"]),
        scale=float(config["position_scale"]),
        epsilon=float(config["position_eps"]),
    )


def name_outputs(output: DetectorOutput) -> dict:
    """Predictions under the names that a gradient's terms use."""
    return {
        "pred_logits": output.logits[-1],
        "pred_boxes": output.boxes[-1],
        "aux.pred_logits": output.logits[:-1],
        "aux.pred_boxes": output.boxes[:-1],
        "hs": output.states,
    }


def describe(output: DetectorOutput) -> dict:
    """All whole tensors of `detr/model` but the gradients."""
    feature, mask = output.features.maps[-1], output.features.masks[-1]
    grid = feature.shape[:3]
    return name_outputs(output) | by_name(
        backbone__features__3=nchw(feature),
        backbone__mask__3=padding(mask),
        position=nchw(output.position.reshape(*grid, -1)),
        memory=nchw(output.memory.reshape(*grid, -1)),
    )


def gradient_scalar(spec: dict):
    """tensors -> Σ coefficient · Σ (draw · tensor[index]), as `config.gradient` says."""
    draws = [regen.draw(**term["draw"]) for term in spec["terms"]]

    def scalar(tensors):
        total = 0.0
        for term, draw in zip(spec["terms"], draws, strict=True):
            x = tensors[term["tensor"]]
            x = x if term["index"] is None else x[term["index"]]
            total += term["coefficient"] * jnp.sum(draw * x)
        return total

    return scalar


def criterion(case, inputs) -> dict:
    """`detr/criterion`: matchings, terms, total and gradients of every run."""
    config = case.spec["config"]
    return {name: _criterion_run(config, run, inputs) for name, run in case.spec["runs"].items()}


def _criterion_run(config, run, inputs) -> dict:
    given = {name: jnp.asarray(inputs[source]) for name, source in run["inputs"].items()}
    targets = pad_targets(run["targets"], inputs)
    objective = build_criterion(config, run["options"]["losses"])

    def losses(given):
        return objective(stack_layers(given), targets)

    result = jax.jit(losses)(given)
    output = stack_layers(given)
    matching = objective.match(output.logits, output.boxes, targets)
    tensors = {f"loss.{name}": value for name, value in result.terms.items()}
    tensors |= {"total": result.total} | _name_matches(matching, config["layers"])
    if run["options"].get("gradient_of") == "total":
        gradient = jax.jit(jax.grad(lambda given: losses(given).total))(given)
        tensors |= {f"grad/{name}": value for name, value in gradient.items()}
    return tensors


def build_criterion(config, losses) -> SetCriterion:
    """The criterion of a case; losses that a run leaves out weigh nothing."""
    expect(config, classification="softmax cross-entropy", match_class_cost="softmax probability")
    expect(config, no_object_class=config["num_classes"], giou_eps=0.0, world_size=1)
    expect(config, mask_focal_alpha=0.25, mask_focal_gamma=2.0, dice_smooth=1.0)
    groups = {"labels": ["ce"], "boxes": ["bbox", "giou"], "masks": ["mask", "dice"]}
    asked = [f"loss_{name}" for loss in losses for name in groups.get(loss, ())]
    weights = {f"loss_{n}": 0.0 for names in groups.values() for n in names}
    for name, weight in config["loss_weights"].items():
        base = name.rstrip("0123456789").rstrip("_")
        if config["loss_weights"][base] != weight:
            raise ValueError(f"weights differ between layers: {name}")
        weights[base] = float(weight) if base in asked else 0.0
    return SetCriterion(
        classes=SoftmaxClasses(float(config["eos_coef"])),
        cost_class=float(config["set_cost_class"]),
        cost_bbox=float(config["set_cost_bbox"]),
        cost_giou=float(config["set_cost_giou"]),
        **weights,
    )


def stack_layers(given: dict) -> DetectorOutput:
    """Predictions of all layers, the last one last; what the criterion does not read is empty."""

    def stacked(name):
        last = given[f"pred_{name}"][None]
        aux = given.get(f"aux.pred_{name}")
        return last if aux is None else jnp.concatenate([aux, last])

    logits = stacked("logits")
    return DetectorOutput(
        logits=logits,
        boxes=stacked("boxes"),
        states=jnp.zeros((*logits.shape[:3], 0)),
        memory=jnp.zeros((logits.shape[1], 0, 0)),
        features=Features((), ()),
        position=jnp.zeros((logits.shape[1], 0, 0)),
        extras={"masks": given["pred_masks"]} if "pred_masks" in given else {},
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


def _name_matches(matching, layers: int) -> dict:
    query, mask = np.asarray(matching.query), np.asarray(matching.mask)
    named = {}
    for layer in range(len(query)):
        for image in range(query.shape[1]):
            (target,) = np.nonzero(mask[layer, image])
            pairs = np.stack([query[layer, image, target], target])
            name = f"match.layer{layers - len(query) + layer}.image{image}"
            named[name] = pairs[:, np.argsort(pairs[0])]
    return named


def postprocess(case, inputs) -> dict:
    """`detr/postprocess`: scores, labels, boxes and masks at the original size."""
    config = case.spec["config"]
    expect(config, clip_boxes=False, no_object_class=config["num_classes"])
    output = stack_layers({k: jnp.asarray(inputs[k]) for k in ("pred_logits", "pred_boxes")})
    found = softmax_detections(output, jnp.asarray(inputs["orig_size"]))
    tensors = {}
    for i in range(len(inputs["orig_size"])):
        tensors[f"scores.{i}"], tensors[f"labels.{i}"] = found.scores[i], found.labels[i]
        tensors[f"boxes.{i}"] = found.boxes[i]
    masks = instance_masks(
        jnp.asarray(inputs["pred_masks"]),
        inputs["size"],
        inputs["orig_size"],
        config["mask_threshold"],
    )
    return {None: tensors | {f"masks.{i}": mask[:, None] for i, mask in enumerate(masks)}}


KINDS = {"detr/model": model, "detr/criterion": criterion, "detr/postprocess": postprocess}

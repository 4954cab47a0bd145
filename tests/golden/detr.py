"""Kinds `detr/*`: model and post-processing."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from jaxseg.models.detr import detr as build_detr
from jaxseg.models.detr.heads import softmax_detections
from jaxseg.models.detr.segments import instance_masks
from jaxseg.nn.position import SinePosition
from jaxseg.structures import DetectorOutput
from jaxseg_convert_torch import load_state_dict, to_state_dict
from tests.golden.common import by_name, case_images, compute, expect, nchw, padding
from tests.golden.criterion import stack_layers
from tests.goldens import regen


def model(case, inputs) -> dict:
    """`detr/model`: every stage's output, and gradients of the case's scalar."""
    config = case.spec["config"]
    detector = build(config)
    params = load_state_dict("detr", case.weights(), detector)
    images = case_images(case.spec, inputs)

    def forward(params):
        return detector.apply({"params": params}, images)

    output, gradient = compute(forward, params, gradient_scalar(config, name_outputs))
    return {None: describe(output) | name_gradient("detr", gradient)}


def build(config, builder=build_detr):
    """The DETR of a case's config."""
    expect(config, backbone_norm="frozen batch norm", backbone_norm_eps=1e-5, backbone_stages=[3])
    expect(config, layer_norm_eps=1e-5, decoder_final_norm=True, bbox_mlp_layers=3, masks=False)
    expect(config, train=False, position_normalize=True, position_axis_order=["y", "x"])
    expect(config, class_outputs=config["num_classes"] + 1, no_object_class=config["num_classes"])
    detector = builder(
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


def gradient_scalar(config: dict, named: Callable) -> Callable | None:
    """output -> Σ coefficient · Σ (draw · named(output)[index]), as `config.gradient` says."""
    spec = config.get("gradient")
    if spec is None:
        return None
    draws = [regen.draw(**term["draw"]) for term in spec["terms"]]

    def scalar(output):
        tensors, total = named(output), 0.0
        for term, draw in zip(spec["terms"], draws, strict=True):
            x = tensors[term["tensor"]]
            x = x if term["index"] is None else x[term["index"]]
            total += term["coefficient"] * jnp.sum(draw * x)
        return total

    return scalar


def name_gradient(table: str, gradient) -> dict:
    """`grad/KEY` for every official key; nothing of None."""
    if gradient is None:
        return {}
    return {f"grad/{key}": value for key, value in to_state_dict(table, gradient).items()}


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
    sizes, originals = np.asarray(inputs["size"]), np.asarray(inputs["orig_size"])
    covers = tuple(sizes.max(0).tolist())
    threshold = config["mask_threshold"]
    for i, logits in enumerate(inputs["pred_masks"]):
        size, original = tuple(sizes[i].tolist()), tuple(originals[i].tolist())
        masks = instance_masks(logits, covers, size, original, threshold)
        tensors[f"masks.{i}"] = masks[:, None]
    return {None: tensors}


KINDS = {"detr/model": model, "detr/postprocess": postprocess}

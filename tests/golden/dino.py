"""Kinds `dino/*`."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.models.detr.denoising import Noise, attention_mask, contrastive_slots
from jaxseg.models.detr.heads import sigmoid_detections
from jaxseg.models.dino import Dino
from jaxseg.models.dino import dino as build_dino
from jaxseg.ops.boxes import xyxy_to_cxcywh
from jaxseg.structures import DetectorOutput
from jaxseg_convert_torch import load_state_dict, to_state_dict
from tests.golden.backbone import build_resnet, build_swin
from tests.golden.common import by_name, case_images, compute, expect
from tests.golden.criterion import build_criterion, name_matches, pad_targets, stack_layers
from tests.golden.deformable_detr import (
    describe_encoded,
    expect_neck,
    forced_index,
    name_ranking,
)
from tests.golden.detr import position
from tests.quick import quick_jit

# Targets have this many slots more than the case's images need.
SPARE = 3


def model(case, inputs) -> dict:
    """`dino/model`: every stage's output in evaluation."""
    detector = build(case.spec["config"])
    params = load_state_dict(table(detector), case.weights(), detector)
    images = case_images(case.spec, inputs)
    apply = quick_jit(detector.apply)
    tensors = name_ranking(apply({"params": params}, images).extras["proposals"])
    output = apply({"params": params}, images, proposal_index=forced_index(case))
    return {None: describe(output) | tensors}


def train(case, inputs) -> dict:
    """`dino/train`: denoising, losses, matchings and gradients."""
    config = case.spec["config"]
    detector, objective = build(config), build_criterion(config)
    names = table(detector)
    params = load_state_dict(names, case.weights(), detector)
    images = case_images(case.spec, inputs)
    targets = pad_targets(_target_names(inputs), inputs, SPARE)
    slots = contrastive_slots(targets.mask, detector.dn_number)
    fields = {"targets": targets, "train": True, "noise": _noise(inputs, slots)}

    free = quick_jit(lambda params: detector.apply({"params": params}, images, **fields))(params)
    tensors = name_ranking(free.extras["proposals"])
    index = forced_index(case)

    def losses(params):
        output = detector.apply({"params": params}, images, proposal_index=index, **fields)
        return objective(output, targets), output

    (result, output), gradient = compute(losses, params, lambda found: found[0].total)
    tensors |= describe(output) | describe_denoising(output, inputs)
    tensors |= {f"loss.{name}": value for name, value in result.terms.items()}
    tensors |= {"total": result.total}
    tensors |= name_matches(objective, output, targets, config["dec_layers"])
    tensors |= _gradients(case, to_state_dict(names, gradient))
    return {None: tensors}


def build(config) -> Dino:
    """The DINO of a case's config."""
    expect_neck(config)
    expect(config, inverse_sigmoid_eps=1e-3, decoder_final_norm=True, pre_norm=False)
    expect(config, activation="relu", bbox_mlp_layers=3, no_object_class=None, query_dim=4)
    expect(config, level_embed=True, num_patterns=0, ref_point_head_layers=2)
    expect(config, query_sine_temperature=10000, query_sine_order=["y", "x", "w", "h"])
    expect(config, query_sine_of="reference * valid ratios of level 0")
    expect(config, query_sine_features_per_coordinate=config["hidden_dim"] // 2)
    expect(config, two_stage_type="standard")
    expect(config, two_stage_keep_all_tokens=False, two_stage_add_query_num=0)
    expect(config, two_stage_bbox_embed_share=False, two_stage_class_embed_share=False)
    expect(config, dec_pred_class_embed_share=config["dec_pred_bbox_embed_share"])
    expect(config, proposal_size=0.05, proposal_size_factor_per_level=2.0)
    expect(config, proposal_valid_range=[0.01, 0.99], proposal_valid_range_open=True)
    expect(config, proposal_score="largest class logit", decoder_sa_type="sa")
    expect(config, decoder_module_seq=["sa", "ca", "ffn"], decoder_layer_noise=False)
    expect(config, dec_layer_number=None, box_update_input="before_decoder_norm")
    expect(config, box_head_input="after_decoder_norm", use_dn=True)
    expect(config, dn_labelbook_size=config["num_classes"])
    threshold = config["nms_iou_threshold"]
    detector = build_dino(
        num_levels=config["num_feature_levels"],
        width=config["hidden_dim"],
        num_heads=config["nheads"],
        num_points=config["dec_n_points"],
        feedforward=config["dim_feedforward"],
        encoder_layers=config["enc_layers"],
        decoder_layers=config["dec_layers"],
        dropout=float(config["dropout"]),
        num_queries=config["num_queries"],
        num_classes=config["num_classes"],
        learned_anchor_size=config.get("two_stage_learn_wh", False),
        selection="mixed" if config["embed_init_tgt"] else "pure",
        look_forward_twice=not config["use_detached_boxes_dec_out"],
        shared_heads=config["dec_pred_bbox_embed_share"],
        dn_number=config["dn_number"],
        label_noise=config["dn_label_noise_ratio"],
        box_noise=config["dn_box_noise_scale"],
        num_select=config["num_select"],
        nms_iou=threshold if threshold > 0 else None,
    )
    return detector.clone(backbone=backbone(config), position=position(config))


def backbone(config):
    """The backbone of a case's config."""
    return build_swin(config) if "swin" in config else build_resnet(config)


def table(detector: Dino) -> str:
    """The conversion table of a model's official form."""
    return "dino" if detector.shared_heads else "dino.unshared"


def describe(output: DetectorOutput) -> dict:
    """All whole tensors of `dino/model` but the ranking."""
    extras = output.extras
    proposals, found = extras["proposals"], extras["first_stage"]
    return describe_encoded(extras["encoded"]) | by_name(
        references=extras["references"],
        hs=output.states,
        pred_logits=output.logits[-1],
        pred_logits__max=output.logits[-1].max(-1),
        pred_boxes=output.boxes[-1],
        aux__pred_logits=output.logits[:-1],
        aux__pred_boxes=output.boxes[:-1],
        interm__pred_logits=found.logits,
        interm__pred_boxes=found.boxes,
        interm__anchors=jax.nn.sigmoid(proposals.chosen(proposals.anchors)),
    )


def describe_denoising(output: DetectorOutput, inputs: dict) -> dict:
    """Tensors of the denoising part, cut to the slots that the original has."""
    denoising, denoised = output.extras["denoising"], output.extras["denoised"]
    slots = denoising.slots
    _, groups, halves, targets = inputs["dn_slot"].shape
    count, every = groups * halves * targets, slots.group.shape[1]
    queries = output.logits.shape[2]

    def cut(x, axis=1):
        x = np.moveaxis(np.asarray(x), axis, 0)[:count]
        x = x.reshape(groups, halves, targets, *x.shape[1:])
        return np.moveaxis(x, (0, 1, 2), (axis, axis + 1, axis + 2))

    kept = [*range(count), *range(every, every + queries)]
    mask = _attention_mask(slots, queries)[np.ix_(kept, kept)]
    return by_name(
        dn__groups=slots.groups[0],
        dn__max_targets=np.asarray(slots.used[0]).sum() // (2 * np.asarray(slots.groups[0])),
        attention_mask=~mask,
        dn__anchors_unsigmoid=cut(denoising.box_logits),
        dn__query_content=cut(denoising.content),
        dn__references=cut(output.extras["denoised_references"], 2),
        dn__hs=cut(output.extras["denoised_states"], 2),
        dn__pred_logits=cut(denoised.logits, 2),
        dn__pred_boxes=cut(denoised.boxes, 2),
    )


def _attention_mask(slots, queries) -> np.ndarray:
    masks = np.asarray(attention_mask(slots, queries))
    assert (masks == masks[:1]).all(), "one mask for all images"
    return masks[0]


def _target_names(inputs) -> list[dict]:
    count = sum(name.endswith("_labels") for name in inputs)
    return [{part: f"target{i}_{part}" for part in ("labels", "boxes")} for i in range(count)]


def _noise(inputs, slots) -> Noise:
    """The case's draws in our slots; slots that hold no target get any."""
    slot = inputs["dn_slot"]
    where = np.nonzero(slot >= 0)
    image, place = where[0], slot[where]

    def placed(name, fill):
        values = np.asarray(inputs[name])
        full = np.full((*slots.group.shape, *values.shape[4:]), fill, values.dtype)
        full[image, place] = values[where]
        return jnp.asarray(full)

    return Noise(
        flip=placed("dn_label_uniform", 0.5),
        label=placed("dn_new_label", 1),
        shift=placed("dn_box_uniform", 0.5),
        sign=placed("dn_box_sign", 1),
    )


def _gradients(case, official: dict) -> dict:
    """`grad/KEY` of every parameter, and `grad_norm` of those that the case lists."""
    frozen = set(case.spec["config"]["frozen_parameters"])
    tensors = {f"grad/{key}": value for key, value in official.items() if key not in frozen}
    for output in case.spec["outputs"].values():
        if output["from"] == "grad_norm":
            norms = [np.linalg.norm(official[key].astype(np.float64)) for key in output["keys"]]
            tensors["grad_norm"] = np.asarray(norms)
    return tensors


def postprocess(case, inputs) -> dict:
    """`dino/postprocess`: selection, box formats, NMS."""
    given = {name: jnp.asarray(inputs[name]) for name in ("pred_logits", "pred_boxes")}
    sizes = jnp.asarray(inputs["target_sizes"])
    runs = case.spec.get("runs") or {None: {}}
    return {
        name: _postprocess_run(case.spec["config"] | run.get("options", {}), given, sizes)
        for name, run in runs.items()
    }


def _postprocess_run(options, given, sizes) -> dict:
    threshold = options["nms_iou_threshold"]
    found = sigmoid_detections(
        stack_layers(given), sizes, options["num_select"], threshold if threshold > 0 else None
    )
    formats = {
        "xyxy": lambda boxes: boxes,
        "cxcywh": xyxy_to_cxcywh,
        "xywh": lambda boxes: jnp.concatenate(
            [boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], -1
        ),
    }
    boxes = formats[options["box_format"]](found.boxes)
    tensors = {}
    for i, scores in enumerate(found.scores):
        kept = np.isfinite(scores)
        tensors[f"scores.{i}"] = np.asarray(scores)[kept]
        tensors[f"labels.{i}"] = np.asarray(found.labels[i])[kept]
        tensors[f"boxes.{i}"] = np.asarray(boxes[i])[kept]
    return tensors


KINDS = {"dino/model": model, "dino/train": train, "dino/postprocess": postprocess}

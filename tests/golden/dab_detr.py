"""Kinds `dab_detr/*` and `dn_detr/*`."""

import jax.numpy as jnp
import numpy as np

from jaxseg.models.dab_deformable_detr import dab_deformable_detr as build_dab_deformable
from jaxseg.models.dab_detr import DabDetr
from jaxseg.models.dab_detr import dab_detr as build_dab
from jaxseg.models.detr.denoising import Noise, attention_mask, plain_slots
from jaxseg.models.dn_detr import encoder_only
from jaxseg_convert_torch import load_state_dict
from tests.golden.common import by_name, case_images, compute, expect, nchw, padding
from tests.golden.criterion import build_criterion, name_matches, pad_targets
from tests.golden.deformable_detr import (
    common_fields,
    describe_encoded,
    expect_neck,
)
from tests.golden.detr import gradient_scalar, name_gradient, name_outputs, position
from tests.quick import quick_jit

DENSE, DEFORMABLE, ENCODER_ONLY = "dab_detr", "dab_deformable_detr", "dab_detr.encoder_only"


def dense_model(case, inputs) -> dict:
    """`dab_detr/model`: every stage's output, and gradients of the case's scalar."""
    config = case.spec["config"]
    detector = build_dense(config)
    params = load_state_dict(DENSE, case.weights(), detector)
    images = case_images(case.spec, inputs)

    def forward(params):
        return detector.apply({"params": params}, images)

    output, gradient = compute(forward, params, gradient_scalar(config, name_outputs))
    tensors = describe_dense(output) | name_gradient(DENSE, gradient)
    if "orig_size" in inputs:
        found = detector.detections(output, jnp.asarray(inputs["orig_size"]))
        tensors |= {f"postprocess.scores.{i}": s for i, s in enumerate(found.scores)}
    return {None: tensors}


def deformable_model(case, inputs) -> dict:
    """`dab_detr/deformable_model`: every stage's output."""
    detector = build_deformable(case.spec["config"])
    params = load_state_dict(DEFORMABLE, case.weights(), detector)
    output = quick_jit(detector.apply)({"params": params}, case_images(case.spec, inputs))
    tensors = {name: np.asarray(x) for name, x in name_outputs(output).items()}
    tensors |= describe_encoded(output.extras["encoded"])
    references = output.extras["references"]
    # The first references are the same for every image.
    tensors |= by_name(init_reference=references[0, 0], inter_references=output.boxes)
    return {None: tensors}


def dn_model(case, inputs) -> dict:
    """`dn_detr/model` and its deformable kinds: denoising, losses and matchings."""
    config, runs = case.spec["config"], case.spec["runs"]
    build, table = DN[case.spec["kind"]]
    detector = build(config)
    params = load_state_dict(table, case.weights(), detector)
    return {name: _dn_run(detector, params, case, run, inputs) for name, run in runs.items()}


def _dn_run(detector, params, case, run, inputs) -> dict:
    config = case.spec["config"] | run.get("options", {})
    names = run["inputs"]
    images = case_images(case.spec, inputs, names.get("images"))
    targets = pad_targets(run["targets"], inputs)
    train = "dn_slot" in names
    objective = build_criterion(config)
    noise = None
    if train:
        drawn = {role: inputs[source] for role, source in names.items() if role.startswith("dn_")}
        slots = plain_slots(targets.mask, detector.labels.groups)
        noise = _noise(drawn, slots)

    @quick_jit
    def forward(params):
        output = detector.apply({"params": params}, images, targets, train, noise)
        return output, objective(output, targets)

    output, losses = forward(params)
    tensors = {name: np.asarray(x) for name, x in name_outputs(output).items()}
    tensors |= by_name(total=losses.total, query_content=output.extras["query_content"])
    tensors |= {f"loss.{_official_term(name)}": x for name, x in losses.terms.items()}
    tensors |= name_matches(objective, output, targets, config["dec_layers"])
    return tensors | (_describe_denoising(output, drawn) if train else {})


def _official_term(name: str) -> str:
    """`tgt_loss_ce_3` for `loss_ce_dn_3`."""
    base, found, layer = name.partition("_dn")
    return f"tgt_{base}{layer}" if found else name


def _noise(drawn, slots) -> Noise:
    """The case's draws in our slots; slots that hold no target get any."""
    slot = drawn["dn_slot"]
    where = np.nonzero(slot >= 0)
    image, place = where[0], slot[where]

    def placed(name, fill):
        values = np.asarray(drawn[name])
        full = np.full((*slots.group.shape, *values.shape[3:]), fill, values.dtype)
        full[image, place] = values[where]
        return jnp.asarray(full)

    shift = placed("dn_box_uniform", 0.5)
    return Noise(
        placed("dn_label_uniform", 0.5), placed("dn_new_label", 1), shift, jnp.ones_like(shift)
    )


def _describe_denoising(output, drawn) -> dict:
    """Tensors of the denoising part, cut to the slots that the original has."""
    denoising, found = output.extras["denoising"], output.extras["denoised"]
    _, groups, targets = drawn["dn_slot"].shape
    count, every = groups * targets, denoising.slots.group.shape[1]
    queries = output.logits.shape[2]

    def cut(x, axis):
        x = np.moveaxis(np.asarray(x), axis, 0)[:count]
        return np.moveaxis(x.reshape(groups, targets, *x.shape[1:]), (0, 1), (axis, axis + 1))

    masks = np.asarray(attention_mask(denoising.slots, queries))
    kept = [*range(count), *range(every, every + queries)]
    return by_name(
        attention_mask=~masks[0][np.ix_(kept, kept)],
        dn__query_content=cut(denoising.content, 1),
        dn__anchors_unsigmoid=cut(denoising.box_logits, 1),
        dn__pred_logits=cut(found.logits, 2),
        dn__pred_boxes=cut(found.boxes, 2),
    )


def build_dense(config) -> DabDetr:
    """The DAB-DETR or DN-DETR of a case's config."""
    expect(config, backbone_norm="frozen batch norm", backbone_norm_eps=1e-5, backbone_stages=[3])
    expect(config, activation="prelu")
    _expect_dense_decoder(config)
    detector = build_dab(
        depth=int(config["backbone"].removeprefix("resnet")),
        dilation=config["dilation"],
        width=config["hidden_dim"],
        num_heads=config["nheads"],
        feedforward=config["dim_feedforward"],
        encoder_layers=config["enc_layers"],
        decoder_layers=config["dec_layers"],
        dropout=float(config["dropout"]),
        num_queries=config["num_queries"],
        num_patterns=config["num_patterns"],
        num_classes=config["num_classes"],
        num_select=config["num_select"],
        **_denoising_fields(config),
    )
    return detector.clone(position=position(config))


def build_encoder_only(config) -> DabDetr:
    """The DN-Deformable-DETR of a case's config whose encoder alone is deformable."""
    expect_neck(config)
    expect(config, activation="relu", dilation=False)
    expect(config, level_attention="softmax over levels of lvl_attn(self-attention query)")
    _expect_dense_decoder(config)
    detector = encoder_only(
        **{k: v for k, v in common_fields(config).items() if k != "dilation"},
        num_patterns=config["num_patterns"],
        **_denoising_fields(config),
    )
    return detector.clone(position=position(config))


def _expect_dense_decoder(config) -> None:
    expect(config, pre_norm=False, decoder_final_norm=True, iter_update=True)
    expect(config, query_scale_type="cond_elewise", keep_query_pos=False, modulate_hw_attn=True)
    expect(config, bbox_embed_diff_each_layer=False)
    _expect_anchors(config)


def build_deformable(config):
    """The DAB-Deformable-DETR or DN-DAB-Deformable-DETR of a case's config."""
    expect_neck(config)
    expect(config, activation="relu", pre_norm=False, decoder_final_norm=False)
    expect(config, with_box_refine=True, two_stage=False)
    expect(config, query_sine_of="anchor times the valid ratio of level 0")
    _expect_anchors(config)
    detector = build_dab_deformable(
        **{k: v for k, v in common_fields(config).items() if k != "dilation"},
        num_patterns=config["num_patterns"],
        **_denoising_fields(config),
    )
    return detector.clone(position=position(config))


def _expect_anchors(config) -> None:
    expect(config, inverse_sigmoid_eps=1e-3, bbox_mlp_layers=3, no_object_class=None, query_dim=4)
    expect(config, query_sine_temperature=10000, query_sine_order=["y", "x", "w", "h"])
    expect(config, query_sine_features_per_coordinate=config["hidden_dim"] // 2)
    expect(config, class_outputs=config["num_classes"], layer_norm_eps=1e-5)


def _denoising_fields(config) -> dict:
    if "denoising" not in config:
        return {}
    denoising = config["denoising"]
    expect(denoising, empty_slots_attended=True, empty_slot_content=0.0, indicator_denoising=1.0)
    expect(denoising, indicator_matching=0.0, indicator_channel=config["hidden_dim"] - 1)
    return {
        "denoising": True,
        "dn_groups": denoising["groups"],
        "label_noise": denoising["label_noise_scale"],
        "box_noise": denoising["box_noise_scale"],
    }


def describe_dense(output) -> dict:
    """All whole tensors of `dab_detr/model` but post-processing and gradients."""
    mask = output.features.masks[-1]
    return {name: np.asarray(x) for name, x in name_outputs(output).items()} | by_name(
        backbone__mask__3=padding(mask),
        position=nchw(output.position.reshape(*mask.shape, -1)),
        memory=output.memory,
        references=output.extras["references"],
    )


DN = {
    "dn_detr/model": (build_dense, DENSE),
    "dn_detr/deformable_model": (build_deformable, DEFORMABLE),
    "dn_detr/encoder_only_model": (build_encoder_only, ENCODER_ONLY),
}
KINDS = {
    "dab_detr/model": dense_model,
    "dab_detr/deformable_model": deformable_model,
    **dict.fromkeys(DN, dn_model),
}

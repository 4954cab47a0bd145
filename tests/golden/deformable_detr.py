"""Kinds `deformable_detr/*`."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.kernels.ms_deform_attn import ms_deform_attn
from jaxseg.models.deformable_detr import deformable_detr as build_deformable_detr
from jaxseg.models.detr.levels import Encoded, cell_centres, join
from jaxseg.structures import DetectorOutput
from jaxseg_convert_torch import load_state_dict
from tests.golden.common import by_name, case_images, compute, expect, padding
from tests.golden.detr import gradient_scalar, name_gradient, name_outputs, position
from tests.quick import quick_jit


def operation(case, inputs) -> dict:
    """`deformable_detr/ms_deform_attn`: the bare operation and its gradients."""
    expect(case.spec["config"], align_corners=False, padding="zeros", interpolation="bilinear")
    expect(case.spec["config"], pixel_coordinate="location * size - 0.5")
    return {name: _operation_run(run, inputs) for name, run in case.spec["runs"].items()}


def _operation_run(run, inputs) -> dict:
    given = {role: jnp.asarray(inputs[source]) for role, source in run["inputs"].items()}
    shapes = tuple((h, w) for h, w in run["options"]["levels"])
    arguments = {role: given[role] for role in ("value", "locations", "weights")}

    def sample(arguments):
        return ms_deform_attn(**arguments, shapes=shapes)

    output, pull_back = jax.vjp(sample, arguments)
    (gradients,) = pull_back(given["grad_output"])
    return {"output": output} | {f"grad/{role}": value for role, value in gradients.items()}


def model(case, inputs) -> dict:
    """`deformable_detr/model`: every stage's output, and gradients of the case's scalar."""
    config = case.spec["config"]
    detector = build(config)
    table = "deformable_detr.refine" if config["with_box_refine"] else "deformable_detr"
    params = load_state_dict(table, case.weights(), detector)
    images = case_images(case.spec, inputs)
    tensors = {}
    index = forced_index(case)
    if index is not None:
        free = quick_jit(detector.apply)({"params": params}, images)
        tensors |= name_ranking(free.extras["proposals"])

    def forward(params):
        return detector.apply({"params": params}, images, proposal_index=index)

    output, gradient = compute(forward, params, gradient_scalar(config, name_predictions))
    tensors = describe(detector, output) | tensors
    return {None: tensors | name_gradient(table, gradient)}


def build(config):
    """The Deformable DETR of a case's config."""
    expect_neck(config)
    expect(config, inverse_sigmoid_eps=1e-5, decoder_final_norm=False, pre_norm=False)
    expect(config, activation="relu", train=False, bbox_mlp_layers=3, no_object_class=None)
    expect(config, proposal_size=0.05, proposal_valid_range=[0.01, 0.99], proposal_rank_class=0)
    expect(config, proposal_sine_temperature=10000, proposal_sine_order=["cx", "cy", "w", "h"])
    expect(config, proposal_sine_features_per_coordinate=config["hidden_dim"] // 2)
    expect(config, two_stage_num_proposals=config["num_queries"])
    detector = build_deformable_detr(
        **common_fields(config),
        refine=config["with_box_refine"],
        two_stage=config["two_stage"],
    )
    return detector.clone(position=position(config))


def expect_neck(config) -> None:
    """Refuse what no deformable detector here has otherwise."""
    expect(config, backbone_norm="frozen batch norm", backbone_norm_eps=1e-5)
    expect(config, input_proj_group_norm_groups=32, input_proj_group_norm_eps=1e-5)
    expect(config, layer_norm_eps=1e-5, position_embedding="sine", position_normalize=True)
    expect(config, position_axis_order=["y", "x"], class_outputs=config["num_classes"])
    extra = config.get("extra_level_conv") or {}
    expect(extra, kernel=3, stride=2, padding=1)
    expect(extra, first_reads="backbone.features.3 before projection")
    expect(extra, next_read="previous projected level")
    expect(config, enc_n_points=config["dec_n_points"])


def common_fields(config) -> dict:
    """Builder arguments that the deformable detectors share."""
    stages = (3,) if config["num_feature_levels"] == 1 else (1, 2, 3)
    expect(config, backbone_stages=list(stages))
    return {
        "depth": int(config["backbone"].removeprefix("resnet")),
        "dilation": config["dilation"],
        "num_levels": config["num_feature_levels"],
        "width": config["hidden_dim"],
        "num_heads": config["nheads"],
        "num_points": config["dec_n_points"],
        "feedforward": config["dim_feedforward"],
        "encoder_layers": config["enc_layers"],
        "decoder_layers": config["dec_layers"],
        "dropout": float(config["dropout"]),
        "num_queries": config["num_queries"],
        "num_classes": config["num_classes"],
        "num_select": config["num_select"],
    }


def forced_index(case) -> jax.Array | None:
    """The order of proposals that a case goes on with."""
    force = case.spec.get("force", {})
    if unknown := set(force) - {"topk.index"}:
        raise ValueError(f"cannot force {sorted(unknown)}")
    return jnp.asarray(case.tensors[force["topk.index"]["in"]], jnp.int32) if force else None


def name_ranking(proposals) -> dict:
    """The model's own choice of proposals."""
    scores = proposals.chosen(proposals.score[..., None])[..., 0]
    return by_name(topk__index=proposals.index, topk__scores=scores)


def name_predictions(output: DetectorOutput) -> dict:
    """Predictions under the names that a gradient's terms use."""
    named = name_outputs(output)
    if "proposals" in output.extras:
        proposals = output.extras["proposals"]
        named["enc.pred_logits"] = proposals.logits
        named["enc.pred_boxes"] = output.extras["first_stage"].boxes
    return named


def describe_encoded(encoded: Encoded) -> dict:
    """Tensors of the levels and the encoder."""
    real = np.asarray(encoded.mask)[..., None]
    # A jitted function returns them as arrays.
    shapes = tuple((int(h), int(w)) for h, w in encoded.shapes)
    return by_name(
        spatial_shapes=np.asarray(encoded.shapes),
        mask=padding(encoded.mask),
        valid_ratios=encoded.valid_ratios,
        src=encoded.tokens,
        encoder__position=encoded.position,
        encoder__reference_points=cell_centres(encoded.valid_ratios, shapes),
        memory=np.where(real, encoded.memory, 0),
    )


def describe(detector, output: DetectorOutput) -> dict:
    """All whole tensors of `deformable_detr/model` but ranking and gradients."""
    encoded, references = output.extras["encoded"], output.extras["references"]
    tensors = {name: np.asarray(x) for name, x in name_predictions(output).items()}
    tensors |= describe_encoded(encoded)
    # Without the level embedding, and only where it is well-conditioned.
    sines = join([detector.position.apply({}, mask) for mask in encoded.masks])
    tensors["position"] = np.where(np.asarray(encoded.mask)[..., None], sines, 0)
    tensors["init_reference"] = np.asarray(references[0])
    # With refinement a layer's boxes are the references that it leads to.
    tensors["inter_references"] = output.boxes if detector.refine else np.stack(references)
    return tensors


KINDS = {
    "deformable_detr/ms_deform_attn": operation,
    "deformable_detr/model": model,
}

"""What official checkpoints of Deformable DETR, DAB-DETR, DN-DETR and DINO say of their models."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flax import linen as nn

from jaxseg.backbones.swin import SIZES, WINDOWS
from jaxseg.errors import UserError
from jaxseg.models import build
from jaxseg.models.dab_detr import DabDetr
from jaxseg.models.grounding_dino import GroundingDino
from jaxseg.native import build_model
from jaxseg.train.describe import describe, describe_as
from jaxseg_convert_torch.infer import Inferred, count_layers, resnet_depth

BERT_HEAD = 64  # channels of one of BERT's heads, which no tensor shows
State = Mapping[str, np.ndarray]
# Training argument -> builder argument, for what the tensors' shapes do not show.
DEFORMABLE = {"dropout": "dropout"}
DENSE = {
    "dropout": "dropout",
    "dilation": "dilation",
    "pe_temperatureH": "temperature",
    "num_select": "num_select",
}
ENCODER_ONLY = {"dropout": "dropout", "pe_temperatureH": "temperature"}
DN = {"scalar": "dn_groups", "label_noise_scale": "label_noise", "box_noise_scale": "box_noise"}
DINO = {
    "dn_number": "dn_number",
    "dn_label_noise_ratio": "label_noise",
    "dn_box_noise_scale": "box_noise",
    "num_select": "num_select",
    "use_detached_boxes_dec_out": "look_forward_twice",
    "two_stage_keep_all_tokens": "propose_all",
}


def infer_anchors(
    table: str,
    state: State,
    args: Mapping[str, Any],
    file_name: str,
    model: str | None = None,
    num_heads: int | None = None,
) -> Inferred:
    """Find the builder of an official state dict of the form `table`.

    Sizes follow from keys and shapes; what does not comes from the training arguments where the
    file has them, else it is assumed. Arguments are those of `infer.infer_detr`.

    Raises:
      UserError: no such model, or a model that the file contradicts.
    """
    heads = num_heads or args.get("nheads", 8)
    if model is not None:
        args = {**_known(build(model)), **args}
    try:
        family, kwargs, more = FAMILIES[table](state, args, file_name, heads)
    except KeyError as error:
        raise UserError(f"{file_name} lacks {error}, which every such checkpoint has") from None
    except (ValueError, IndexError):
        raise UserError(f"{file_name} has tensors of another rank than the model's") from None
    kwargs["num_heads"] = heads
    if not num_heads and "nheads" not in args and kwargs["width"] != 256:
        more = ["num_heads=8 (its shapes cannot tell)", *more]
    built = build_model(family, kwargs, file_name)
    name, kwargs = describe(built)
    if model is not None:
        name, kwargs = _as(model, built, name, file_name)
    return Inferred(name, kwargs, more)


def _known(model: nn.Module) -> dict[str, Any]:
    """Training arguments that a named model settles, which no tensor shows."""
    known = {"dilation": getattr(model.backbone, "dilation", False)}
    if isinstance(model, GroundingDino):
        known["sub_sentence_present"] = model.text_level != "word"
    if isinstance(model, DabDetr):
        known["pe_temperatureH"] = model.position.temperature[0]
    return known


def _as(model: str, built: nn.Module, found: str, file_name: str) -> tuple[str, dict[str, Any]]:
    kwargs = describe_as(built, model)
    if kwargs is None:
        raise UserError(
            f"{file_name} is no {model}: its tensors are those of {found}; leave the model out"
        )
    return model, kwargs


def _backbone(state: State) -> dict[str, Any]:
    if "backbone.0.patch_embed.proj.weight" not in state:
        stem = state["backbone.0.body.conv1.weight"].shape[0]
        return {"depth": resnet_depth(state), "stem": stem}
    width = state["backbone.0.patch_embed.proj.weight"].shape[0]
    blocks = [
        count_layers(state, rf"backbone\.0\.layers\.{stage}\.blocks\.(\d+)\.") for stage in range(4)
    ]
    table = state["backbone.0.layers.0.blocks.0.attn.relative_position_bias_table"]
    window = (round(len(table) ** 0.5) + 1) // 2
    heads = [
        state[f"backbone.0.layers.{stage}.blocks.0.attn.relative_position_bias_table"].shape[1]
        for stage in range(4)
    ]
    row = (width, tuple(blocks), tuple(heads))
    side = next((side for side, known in WINDOWS.items() if known == window), None)
    if side is None:
        raise UserError(
            f"its Swin has windows of {window}; there are windows of {sorted(WINDOWS.values())}"
        )
    return {"swin": next((k for k, s in SIZES.items() if s == row), row), "pretraining": side}


def _transformer(state: State) -> dict[str, Any]:
    encoder, decoder = (
        count_layers(state, rf"transformer\.{stack}\.layers\.(\d+)\.")
        for stack in ("encoder", "decoder")
    )
    hidden = state["transformer.decoder.layers.0.linear1.weight"].shape
    return {
        "width": hidden[1],
        "feedforward": hidden[0],
        "encoder_layers": encoder,
        "decoder_layers": decoder,
    }


def _levels(state: State, heads: int) -> dict[str, Any]:
    levels = state["transformer.level_embed"].shape[0]
    samples = state["transformer.encoder.layers.0.self_attn.attention_weights.weight"].shape[0]
    return {"num_levels": levels, "num_points": samples // (heads * levels)}


def _deformable(state, args, file_name, heads) -> tuple[str, dict[str, Any], list[str]]:
    kwargs = _backbone(state) | _transformer(state) | _levels(state, heads)
    kwargs |= _said(DEFORMABLE, args)
    kwargs["num_classes"] = state["class_embed.0.weight"].shape[0]
    kwargs["refine"] = any(key.startswith("transformer.decoder.bbox_embed") for key in state)
    kwargs["two_stage"] = "transformer.enc_output.weight" in state
    notes = []
    if "query_embed.weight" in state:
        kwargs["num_queries"] = state["query_embed.weight"].shape[0]
    else:
        kwargs["num_queries"] = args.get("num_queries", 300)
        notes += _assumed(args, "num_queries", 300)
    if kwargs["num_levels"] == 1:
        kwargs["dilation"], note = _dilation(args, file_name)
        notes += note
    return "deformable_detr.r50", kwargs, notes


def _dense(state, args, file_name, heads) -> tuple[str, dict[str, Any], list[str]]:
    del heads
    kwargs = _backbone(state) | _transformer(state) | _said(DENSE, args)
    kwargs["num_classes"] = state["class_embed.weight"].shape[0]
    kwargs["num_queries"] = state["refpoint_embed.weight"].shape[0]
    kwargs["num_patterns"] = len(state.get("transformer.patterns.weight", ()))
    kwargs["dilation"], notes = _dilation(args, file_name)
    if "temperature" not in kwargs:
        # One of DAB-DETR's published weights differs; all of DN-DETR's are alike.
        plain = not kwargs["num_patterns"] and "label_enc.weight" not in state
        kwargs["temperature"] = 10.0 if kwargs["dilation"] and plain else 20.0
        notes.append(f"temperature={kwargs['temperature']:g} (as of the published weights)")
    kwargs["temperature"] = float(kwargs["temperature"])
    return _with_labels("dab_detr.r50", "dn_detr.r50", kwargs, state, args, notes)


def _encoder_only(state, args, file_name, heads) -> tuple[str, dict[str, Any], list[str]]:
    del file_name
    kwargs = _backbone(state) | _transformer(state) | _levels(state, heads)
    kwargs |= _said(ENCODER_ONLY, args) | _said(DN, args)
    kwargs["temperature"] = float(kwargs.get("temperature", 20))
    kwargs["num_classes"] = state["class_embed.weight"].shape[0]
    kwargs["num_queries"] = state["refpoint_embed.weight"].shape[0]
    kwargs["num_patterns"] = len(state.get("transformer.patterns.weight", ()))
    kwargs["denoising"] = "label_enc.weight" in state
    return "dn_detr.encoder_only_r50", kwargs, []


def _dab_deformable(state, args, file_name, heads) -> tuple[str, dict[str, Any], list[str]]:
    del file_name
    kwargs = _backbone(state) | _transformer(state) | _levels(state, heads)
    kwargs |= _said(DEFORMABLE, args)
    kwargs["num_classes"] = state["class_embed.0.weight"].shape[0]
    kwargs["num_queries"] = state["refpoint_embed.weight"].shape[0]
    kwargs["num_patterns"] = len(state.get("patterns_embed.weight", ()))
    return _with_labels(
        "dab_deformable_detr.r50", "dn_detr.deformable_r50", kwargs, state, args, []
    )


def _with_labels(plain, denoising, kwargs, state, args, notes):
    if "label_enc.weight" not in state:
        return plain, kwargs, notes
    return denoising, kwargs | _said(DN, args) | {"denoising": True}, notes


def _dino(state, args, file_name, heads) -> tuple[str, dict[str, Any], list[str]]:
    del file_name
    kwargs = _backbone(state) | _transformer(state) | _levels(state, heads) | _said(DINO, args)
    kwargs["num_classes"] = state["class_embed.0.weight"].shape[0]
    if "look_forward_twice" in kwargs:
        kwargs["look_forward_twice"] = not kwargs["look_forward_twice"]
    if (threshold := args.get("nms_iou_threshold", -1)) > 0:
        kwargs["nms_iou"] = float(threshold)
    content = state.get("transformer.tgt_embed.weight")
    kwargs["selection"] = "pure" if content is None else "mixed"
    if "transformer.refpoint_embed.weight" in state:
        kwargs["selection"] = "static"
    kwargs["num_queries"] = args.get("num_queries", 900) if content is None else len(content)
    notes = [] if content is not None else _assumed(args, "num_queries", 900)
    kwargs["shared_heads"] = shares_heads(state)
    kwargs["learned_anchor_size"] = "transformer.two_stage_wh_embedding.weight" in state
    return "dino.r50_4scale", kwargs, notes


def _grounding(state, args, file_name, heads) -> tuple[str, dict[str, Any], list[str]]:
    del file_name
    kwargs = _backbone(state) | _transformer(state) | _levels(state, heads)
    words, text = state["bert.embeddings.word_embeddings.weight"], "transformer.encoder.text_layers"
    kwargs |= {
        "vocabulary": words.shape[0],
        "bert_width": words.shape[1],
        "bert_layers": count_layers(state, r"bert\.encoder\.layer\.(\d+)\."),
        "bert_heads": max(1, words.shape[1] // BERT_HEAD),
        "bert_feedforward": state["bert.encoder.layer.0.intermediate.dense.weight"].shape[0],
        "bert_pooler": "bert.pooler.dense.weight" in state,
        "text_feedforward": state[f"{text}.0.linear1.weight"].shape[0],
        "text_attention": "transformer.decoder.layers.0.catext_norm.weight" in state,
    }
    fused = state.get("transformer.encoder.fusion_layers.0.attn.v_proj.weight")
    kwargs["fusion"] = fused is not None
    if fused is not None:
        kwargs["fusion_width"] = fused.shape[0]
    kwargs["num_queries"] = len(state["transformer.tgt_embed.weight"])
    if "transformer.refpoint_embed.weight" in state:
        kwargs["selection"] = "static"
    if not args.get("sub_sentence_present", True):
        kwargs["text_level"] = "word"
    # Of the published widths the heads are known.
    assumed = []
    if kwargs["bert_width"] != 768:
        assumed.append(f"bert_heads={kwargs['bert_heads']}")
    if kwargs["width"] != 256:
        assumed += ["text_heads=4", "fusion_heads=4"]
    return "grounding_dino.swin_t", kwargs, [f"{x} (its shapes cannot tell)" for x in assumed]


def shares_heads(state: State) -> bool:
    """Whether all layers of a DINO have one pair of heads, which is then listed for each."""
    first, second = (state.get(f"bbox_embed.{i}.layers.0.weight") for i in (0, 1))
    return second is None or np.array_equal(first, second)


def _said(names: Mapping[str, str], args: Mapping[str, Any]) -> dict[str, Any]:
    return {ours: args[theirs] for theirs, ours in names.items() if theirs in args}


def _assumed(args, name, value) -> list[str]:
    return [] if name in args else [f"{name}={value} (its shapes cannot tell)"]


def _dilation(args, file_name) -> tuple[bool, list[str]]:
    if "dilation" in args:
        return bool(args["dilation"]), []
    found = "dc5" in file_name.lower()
    how = "its file name says so" if found else "its keys cannot tell"
    return found, [f"dilation={found} ({how})"]


FAMILIES: dict[str, Callable] = {
    "deformable_detr": _deformable,
    "deformable_detr.refine": _deformable,
    "dab_detr": _dense,
    "dab_detr.encoder_only": _encoder_only,
    "dab_deformable_detr": _dab_deformable,
    "dino": _dino,
    "dino.unshared": _dino,
    "grounding_dino": _grounding,
}

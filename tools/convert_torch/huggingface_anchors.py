"""Hugging Face's `config.json` of Deformable DETR and of DAB-DETR, read."""

import math
from collections.abc import Mapping
from typing import Any

from jaxseg.errors import UserError
from jaxseg.native import build_model
from jaxseg.train.describe import describe
from jaxseg_convert_torch.huggingface_backbones import STAGES, read_backbone
from jaxseg_convert_torch.huggingface_classes import read_classes
from jaxseg_convert_torch.huggingface_fields import (
    FIXED,
    Described,
    Fields,
    require,
    require_count,
)

BOOL = (False, True)
COUNTS = ("encoder_attention_heads", "encoder_ffn_dim", "num_queries", "decoder_layers")
TWINS = {
    "decoder_attention_heads": "encoder_attention_heads",
    "decoder_ffn_dim": "encoder_ffn_dim",
}
DEFORMABLE = Fields(
    architectures=("DeformableDetrForObjectDetection",),
    renamed={
        "d_model": ("width", 256),
        "encoder_attention_heads": ("num_heads", 8),
        "encoder_ffn_dim": ("feedforward", 1024),
        "encoder_layers": ("encoder_layers", 6),
        "decoder_layers": ("decoder_layers", 6),
        "encoder_n_points": ("num_points", 4),
        "num_feature_levels": ("num_levels", 4),
        "num_queries": ("num_queries", 300),
        "dropout": ("dropout", 0.1),
        "with_box_refine": ("refine", False),
        "two_stage": ("two_stage", False),
    },
    twins=TWINS | {"decoder_n_points": "encoder_n_points"},
    fixed=FIXED
    | {
        "activation_function": ("relu",),
        "position_embedding_type": ("sine",),
        "with_box_refine": BOOL,
        "two_stage": BOOL,
    },
    counts=(*COUNTS, "d_model", "encoder_n_points", "num_feature_levels"),
    others=(
        *("two_stage_num_proposals", "return_intermediate", "disable_custom_kernels"),
        "focal_alpha",
    ),
)
DAB = Fields(
    architectures=("DabDetrForObjectDetection",),
    renamed={
        "hidden_size": ("width", 256),
        "encoder_attention_heads": ("num_heads", 8),
        "encoder_ffn_dim": ("feedforward", 2048),
        "encoder_layers": ("encoder_layers", 6),
        "decoder_layers": ("decoder_layers", 6),
        "num_queries": ("num_queries", 300),
        "num_patterns": ("num_patterns", 0),
        "dropout": ("dropout", 0.1),
        "temperature_height": ("temperature", 20),
        "random_refpoints_xy": ("anchors", False),
    },
    twins=TWINS | {"temperature_width": "temperature_height"},
    fixed=FIXED
    | {
        "activation_function": ("prelu",),
        "query_dim": (4,),
        "keep_query_pos": (False,),
        "sine_position_embedding_scale": (2 * math.pi,),
        "random_refpoints_xy": BOOL,
    },
    counts=(*COUNTS, "hidden_size", "temperature_height"),
    others=("cls_loss_coefficient", "focal_alpha", "initializer_bias_prior_prob"),
)
# Of transformers' inverse sigmoid in DAB-DETR; the original's is larger.
DAB_EPSILON = 1e-5
GROUPS = 32  # of the group normalisation after Deformable DETR's backbone


def read_deformable(config: Mapping[str, Any]) -> Described:
    """A config without nulls; see `huggingface.read_config`."""
    kwargs = DEFORMABLE.read(config)
    if kwargs["width"] % GROUPS:
        raise UserError(
            f"config.json: d_model must be a multiple of {GROUPS} (its features are normalised in "
            f"{GROUPS} groups); got {kwargs['width']}"
        )
    levels = kwargs["num_levels"]
    if levels == 2:
        raise UserError("config.json: num_feature_levels must be 1, or 3 or more; got 2")
    if kwargs["two_stage"]:
        require("with_box_refine beside two_stage", kwargs["refine"], [True])
        kwargs["num_queries"] = config.get("two_stage_num_proposals", 300)
        require_count("two_stage_num_proposals", kwargs["num_queries"])
    kwargs |= _read_resnet(config, level_stages(levels))
    return _describe("deformable_detr.r50", kwargs, config, DEFORMABLE)


def read_dab(config: Mapping[str, Any]) -> Described:
    """A config without nulls; see `huggingface.read_config`."""
    kwargs = DAB.read(config)
    require_count("num_patterns", kwargs["num_patterns"], 0)
    kwargs["temperature"] = float(kwargs["temperature"])
    kwargs["anchors"] = "uniform" if kwargs["anchors"] else "normal"
    kwargs["epsilon"] = DAB_EPSILON
    kwargs |= _read_resnet(config, None)
    return _describe("dab_detr.r50", kwargs, config, DAB)


def level_stages(levels: int) -> list[str]:
    """The backbone's stages that Deformable DETR makes its levels of."""
    return STAGES[-1:] if levels == 1 else STAGES[1:]


def _read_resnet(config, stages) -> dict[str, Any]:
    return dict(zip(("depth", "dilation", "stem"), read_backbone(config, stages), strict=True))


def _describe(builder: str, kwargs, config, fields: Fields) -> Described:
    """With the builder that says the most."""
    classes, notes = read_classes(config)
    model = build_model(builder, kwargs | {"num_classes": len(classes)}, "config.json")
    return Described(*describe(model), classes, notes + fields.note_unknown(config))

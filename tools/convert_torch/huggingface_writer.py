"""What transformers needs beside the weights of a detector of ours."""

from collections.abc import Mapping
from typing import Any

from flax import linen as nn

from jaxseg.backbones.resnet import FrozenBatchNorm
from jaxseg.data.classes import Classes
from jaxseg.errors import UserError
from jaxseg.models.dab_detr import DabDetr
from jaxseg.models.deformable_detr import DeformableDetr
from jaxseg.models.detr import Detr, DetrSegmentation
from jaxseg.models.detr.builders import ACTIVATIONS, POSITIONS
from jaxseg_convert_torch.huggingface import ARCHITECTURES
from jaxseg_convert_torch.huggingface_anchors import level_stages
from jaxseg_convert_torch.huggingface_backbones import STAGES, write_backbone
from jaxseg_convert_torch.huggingface_classes import write_classes

# DAB-DETR has no image processor of its own.
PROCESSORS = {
    "detr": "DetrImageProcessor",
    "deformable_detr": "DeformableDetrImageProcessor",
    "dab_detr": "ConditionalDetrImageProcessor",
}


def huggingface_form(model: nn.Module, came: str | None = None) -> str:
    """The table of the weights that transformers loads for a model.

    Args:
      came: the table that the weights were read with; it is kept if it will do.

    Raises:
      UserError: transformers has no such model.
    """
    start, end = family(model)
    timm, own = (f"{start}.huggingface{own}{end}" for own in ("", "_resnet"))
    if came in (timm, own):
        return came
    # Without dilation its own ResNet will do, and timm is not needed to load it.
    return timm if model.backbone.dilation else own


def family(model: nn.Module) -> tuple[str, str]:
    """What the name of the table of a model's weights begins and ends with.

    Raises:
      UserError: transformers has no such model.
    """
    if isinstance(model, DeformableDetr):
        more = ".two_stage" if model.two_stage else ".refine" if model.refine else ""
        return "deformable_detr", more
    if isinstance(model, Detr):
        return "detr", ".segmentation" if isinstance(model, DetrSegmentation) else ""
    what = type(model).__name__
    if isinstance(model, DabDetr):
        extras = [part for part in ("labels", "neck") if getattr(model, part, None) is not None]
        if not extras:
            return "dab_detr", ""
        what += f" with {' and '.join(extras)}"
    raise UserError(
        f"Hugging Face's form is written of DETR, Deformable DETR and DAB-DETR; got a {what}: "
        "write the official form instead"
    )


def processor(model: nn.Module) -> str:
    """The name of transformers' image processor for a model."""
    return PROCESSORS[family(model)[0]]


def write_config(model: nn.Module, classes: Classes, table: str) -> dict[str, Any]:
    """The `config.json` with which transformers builds a detector of ours.

    Args:
      table: whose names the weights have; only timm's backbones can be dilated.

    Raises:
      UserError: transformers' model has no such part.
    """
    if model.backbone.norm is not FrozenBatchNorm:
        raise UserError(
            "transformers' DETR has no group normalisation in its ResNet, nor has the official "
            "one: keep it native"
        )
    fields, stages = WRITERS[family(model)[0]](model)
    encoder, decoder = model.encoder, model.decoder
    return {
        **fields,
        "encoder_layers": encoder.num_layers,
        "decoder_layers": decoder.num_layers,
        "encoder_attention_heads": encoder.num_heads,
        "decoder_attention_heads": decoder.num_heads,
        "encoder_ffn_dim": encoder.feedforward,
        "decoder_ffn_dim": decoder.feedforward,
        "dropout": encoder.dropout,
        **write_classes(classes),
        **write_backbone(model.backbone, ".huggingface_resnet" in table, stages),
    }


def _write_detr(model) -> tuple[dict[str, Any], list[str]]:
    encoder = model.encoder
    if encoder.pre_norm:
        raise UserError(
            "transformers' DETR has no pre-norm layers; write the official form instead"
        )
    masks = isinstance(model, DetrSegmentation)
    if masks and encoder.activation is not ACTIVATIONS["relu"]:
        raise UserError("transformers' mask head has the transformer's activation, ours ReLU")
    fields = {
        "architectures": [ARCHITECTURES[masks]],
        "model_type": "detr",
        "d_model": model.width,
        "activation_function": _name_of(encoder.activation, ACTIVATIONS),
        "position_embedding_type": _name_of(type(model.position), POSITIONS),
        "num_queries": model.num_queries,
    }
    return fields, STAGES if masks else STAGES[-1:]


def _name_of(value, table: Mapping[str, Any]) -> str:
    return next(name for name, known in table.items() if known is value)


def _write_deformable(model) -> tuple[dict[str, Any], list[str]]:
    levels, points = model.neck.num_levels, model.encoder.num_points
    if levels == 2:
        raise UserError(
            "transformers' Deformable DETR has 1 level, or 3 or more; got num_levels=2: write the "
            "official form instead"
        )
    fields = {
        "architectures": ["DeformableDetrForObjectDetection"],
        "model_type": "deformable_detr",
        "d_model": model.width,
        "num_feature_levels": levels,
        "encoder_n_points": points,
        "decoder_n_points": points,
        "num_queries": model.num_queries,
        "with_box_refine": model.refine,
        "two_stage": model.two_stage,
    }
    if model.two_stage:
        fields["two_stage_num_proposals"] = model.num_queries
    return fields, level_stages(levels)


def _write_dab(model) -> tuple[dict[str, Any], list[str]]:
    temperature, _ = model.position.temperature
    if temperature != int(temperature):
        raise UserError(
            f"transformers' DAB-DETR has whole numbers for temperatures; got {temperature:g}: "
            "write the official form instead"
        )
    fields = {
        "architectures": ["DabDetrForObjectDetection"],
        "model_type": "dab-detr",
        "hidden_size": model.width,
        "activation_function": "prelu",
        "num_queries": model.num_queries,
        "num_patterns": model.num_patterns,
        "temperature_height": int(temperature),
        "temperature_width": int(temperature),
        # There as in the original's code, centres that should stay as they begin do not.
        "random_refpoints_xy": model.anchors != "normal",
    }
    return fields, STAGES[-1:]


WRITERS = {"detr": _write_detr, "deformable_detr": _write_deformable, "dab_detr": _write_dab}

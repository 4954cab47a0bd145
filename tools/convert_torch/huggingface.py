"""Hugging Face's `config.json`, read: DETR's here, those of its descendants beside this file."""

from collections.abc import Callable, Mapping
from typing import Any

from jaxseg.data.classes import COCO_PANOPTIC
from jaxseg.errors import UserError
from jaxseg.models.detr.builders import ACTIVATIONS, POSITIONS
from jaxseg_convert_torch.huggingface_anchors import read_dab, read_deformable
from jaxseg_convert_torch.huggingface_backbones import RESNET, STAGES, read_backbone
from jaxseg_convert_torch.huggingface_classes import read_classes
from jaxseg_convert_torch.huggingface_clip import read_clip
from jaxseg_convert_torch.huggingface_fields import FIXED, Described, Fields, require
from jaxseg_convert_torch.huggingface_grounding import read_grounding
from jaxseg_convert_torch.huggingface_sam import read_sam

# The class that draws boxes alone, and the one that draws masks.
ARCHITECTURES = ("DetrForObjectDetection", "DetrForSegmentation")
DETR = Fields(
    architectures=ARCHITECTURES,
    renamed={
        "d_model": ("width", 256),
        "encoder_attention_heads": ("num_heads", 8),
        "encoder_ffn_dim": ("feedforward", 2048),
        "encoder_layers": ("encoder_layers", 6),
        "decoder_layers": ("decoder_layers", 6),
        "num_queries": ("num_queries", 100),
        "dropout": ("dropout", 0.1),
        "activation_function": ("activation", "relu"),
        "position_embedding_type": ("position", "sine"),
    },
    twins={
        "decoder_attention_heads": "encoder_attention_heads",
        "decoder_ffn_dim": "encoder_ffn_dim",
    },
    fixed=FIXED
    | {
        "scale_embedding": (False,),
        # not DETR's own: forks and conversion tools add them
        "two_stage": (False,),
        "with_box_refine": (False,),
        "num_feature_levels": (1,),
    },
    # 0 layers are a model, 0 of these none.
    counts=("d_model", "encoder_attention_heads", "encoder_ffn_dim", "num_queries"),
)
# Builders of the published sizes: of boxes, of masks of things and stuff, of masks of things.
BOXES = {
    (50, False): "detr.r50",
    (50, True): "detr.r50_dc5",
    (101, False): "detr.r101",
    (101, True): "detr.r101_dc5",
}
PANOPTIC = {
    (50, False): "detr.r50_panoptic",
    (50, True): "detr.r50_dc5_panoptic",
    (101, False): "detr.r101_panoptic",
}
INSTANCE = {(50, False): "detr.r50_instance", (101, False): "detr.r101_instance"}


def read_config(config: Mapping[str, Any]) -> Described:
    """What a config of one of the kinds in `READERS` says of its model.

    A null stands for what transformers assumes, as it does there.

    Raises:
      UserError: another model, or a field whose value cannot be reproduced, by name.
    """
    if not isinstance(config, Mapping):
        raise UserError(f"config.json must hold a JSON object; got {str(config)[:80]}")
    config = {name: value for name, value in config.items() if value is not None}
    kind = config.get("model_type")
    if kind not in READERS:
        raise UserError(
            f"model_type must be one of {', '.join(READERS)}; got {kind!r}, which is another "
            "model and is not loaded as one of them"
        )
    return READERS[kind](config)


def _read_detr(config: Mapping[str, Any]) -> Described:
    kwargs = DETR.read(config)
    masks = config.get("architectures") == [ARCHITECTURES[1]]
    # The mask head's own activation is ReLU, or in newer versions of transformers this one.
    require("activation_function", kwargs["activation"], ["relu"] if masks else ACTIVATIONS)
    require("position_embedding_type", kwargs["position"], POSITIONS)
    depth, dilation, stem = read_backbone(config, STAGES if masks else None)
    classes, notes = read_classes(config)
    name, size = name_builder(depth, dilation, masks, len(classes))
    if stem != RESNET["embedding_size"]:
        size["stem"] = stem
    kwargs = {**size, **kwargs, "num_classes": len(classes)}
    return Described(name, kwargs, classes, notes + DETR.note_unknown(config))


READERS: dict[str, Callable[[Mapping[str, Any]], Described]] = {
    "detr": _read_detr,
    "deformable_detr": read_deformable,
    "dab-detr": read_dab,
    "grounding-dino": read_grounding,
    "sam": read_sam,
    "clip": read_clip,
}


def name_builder(
    depth: int, dilation: bool, masks: bool = False, num_classes: int = 91
) -> tuple[str, dict[str, Any]]:
    """The builder of a published size, or R50's with the arguments that change its size."""
    names = BOXES
    if masks:
        names = PANOPTIC if num_classes == len(COCO_PANOPTIC) else INSTANCE
    if (depth, dilation) in names:
        return names[depth, dilation], {}
    if (50, dilation) in names:
        return names[50, dilation], {"depth": depth}
    return names[50, False], {"depth": depth, "dilation": dilation}

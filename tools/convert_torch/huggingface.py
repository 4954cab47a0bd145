"""Hugging Face's `config.json` of DETR, read.

A value that would change the model and that the builders cannot reproduce is an error that names
its field. Fields that only training or bookkeeping reads are listed below; any other is noted.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxseg.backbones.resnet import SIZES
from jaxseg.data.classes import COCO_91, COCO_PANOPTIC, HOLE, Classes
from jaxseg.errors import UserError
from jaxseg.models.detr.builders import ACTIVATIONS, POSITIONS

# Field -> builder argument; the second is what transformers assumes where a file is silent.
RENAMED = {
    "d_model": ("width", 256),
    "encoder_attention_heads": ("num_heads", 8),
    "encoder_ffn_dim": ("feedforward", 2048),
    "encoder_layers": ("encoder_layers", 6),
    "decoder_layers": ("decoder_layers", 6),
    "num_queries": ("num_queries", 100),
    "dropout": ("dropout", 0.1),
    "activation_function": ("activation", "relu"),
    "position_embedding_type": ("position", "sine"),
}
# Fields with the only values that the builders reproduce.
FIXED = {
    "num_channels": (3,),
    "encoder_layerdrop": (0,),
    "decoder_layerdrop": (0,),
    "scale_embedding": (False,),
    "tie_word_embeddings": (True, False),
    "use_pretrained_backbone": (True, False),
    # not DETR's own: forks and conversion tools add them
    "normalize_before": (False,),
    "pre_norm": (False,),
    "two_stage": (False,),
    "with_box_refine": (False,),
    "num_feature_levels": (1,),
    "pruned_heads": ({},),
    "quantization_config": ({},),
}
# The dropouts inside attention and feed-forward act in training only, where DETR's own recipe
# uses one rate for all; the costs and coefficients are the criterion's.
TRAINING = {
    *("attention_dropout", "activation_dropout", "classifier_dropout", "auxiliary_loss"),
    *("class_cost", "bbox_cost", "giou_cost", "mask_loss_coefficient", "dice_loss_coefficient"),
    *("bbox_loss_coefficient", "giou_loss_coefficient", "eos_coefficient"),
    *("init_std", "init_xavier_std"),
}
BOOKKEEPING = {
    *("architectures", "model_type", "_name_or_path", "transformers_version", "dtype"),
    *("torch_dtype", "id2label", "label2id", "num_labels", "problem_type", "return_dict"),
    *("output_attentions", "output_hidden_states", "is_encoder_decoder", "max_position_embeddings"),
    *("chunk_size_feed_forward", "hidden_size", "num_hidden_layers", "num_attention_heads"),
    *("torchscript", "finetuning_task", "_attn_implementation_autoset", "license", "use_cache"),
    *("gradient_checkpointing", "auto_map", "output_scores", "use_return_dict", "use_bfloat16"),
    *("_attn_implementation", "_commit_hash", "tokenizer_class", "category_ids", "stuff"),
}
# Sizes; 0 layers are a model, 0 of the others none.
COUNTS = ("d_model", "encoder_attention_heads", "encoder_ffn_dim", "num_queries")
BACKBONE = {
    *("backbone", "backbone_config", "backbone_kwargs", "use_timm_backbone", "dilation"),
    *("decoder_attention_heads", "decoder_ffn_dim"),
}
# What transformers' ResNetConfig assumes where a file is silent; all but sizes must be so here.
RESNET = {
    "embedding_size": 64,
    "hidden_sizes": [256, 512, 1024, 2048],
    "depths": [3, 4, 6, 3],
    "layer_type": "bottleneck",
    "hidden_act": "relu",
    "num_channels": 3,
    "downsample_in_first_stage": False,
    "downsample_in_bottleneck": False,
}
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
# The field that says what a model is for -> whether it draws masks.
ARCHITECTURES = {"DetrForObjectDetection": False, "DetrForSegmentation": True}
STAGES = ["stage1", "stage2", "stage3", "stage4"]
PLACEHOLDER = re.compile(r"LABEL_\d+")


class Described(NamedTuple):
    """A builder's name and arguments, the classes, and a note for all that was assumed."""

    name: str
    kwargs: dict[str, Any]
    classes: Classes
    notes: list[str]


def read_config(config: Mapping[str, Any]) -> Described:
    """What a config of `DetrForObjectDetection` or `DetrForSegmentation` says of its model.

    A null stands for what transformers assumes, as it does there.

    Raises:
      UserError: another model, or a field whose value cannot be reproduced, by name.
    """
    if not isinstance(config, Mapping):
        raise UserError(f"config.json must hold a JSON object; got {str(config)[:80]}")
    config = {name: value for name, value in config.items() if value is not None}
    if config.get("model_type") != "detr":
        raise UserError(
            f"model_type must be 'detr'; got {config.get('model_type')!r}, which is another model "
            "and is not loaded as DETR"
        )
    architectures = config.get("architectures", ["DetrForObjectDetection"])
    _require("architectures", architectures, [[name] for name in ARCHITECTURES])
    masks = ARCHITECTURES[architectures[0]]
    for name, allowed in FIXED.items():
        _require(name, config.get(name, allowed[0]), allowed)
    for name in COUNTS:
        _require_count(name, config.get(name, RENAMED[name][1]))
    kwargs = {ours: config.get(name, value) for name, (ours, value) in RENAMED.items()}
    # The mask head's own activation is ReLU, or in newer versions of transformers this one.
    _require("activation_function", kwargs["activation"], ["relu"] if masks else ACTIVATIONS)
    _require("position_embedding_type", kwargs["position"], POSITIONS)
    heads, feedforward = kwargs["num_heads"], kwargs["feedforward"]
    _require("decoder_attention_heads", config.get("decoder_attention_heads", 8), [heads])
    _require("decoder_ffn_dim", config.get("decoder_ffn_dim", 2048), [feedforward])
    depth, dilation, stem = _read_backbone(config, masks)
    classes, notes = read_classes(config)
    name, size = name_builder(depth, dilation, masks, len(classes))
    if stem != RESNET["embedding_size"]:
        size["stem"] = stem
    kwargs = {**size, **kwargs, "num_classes": len(classes)}
    return Described(name, kwargs, classes, notes + _note_unknown(config))


def _note_unknown(config) -> list[str]:
    known = {*RENAMED, *FIXED, *TRAINING, *BOOKKEEPING, *BACKBONE}
    unknown = sorted(set(config) - known)
    what = "that these fields of config.json do not change the model"
    return [f"{what}: {', '.join(unknown)}"] if unknown else []


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


def read_classes(config: Mapping[str, Any]) -> tuple[Classes, list[str]]:
    """`id2label` and our own field `category_ids` as classes, and a note if ids are assumed.

    Without that field the label is the category id, and "N/A" a hole.
    """
    # transformers leaves out what it would assume: two labels.
    count = config.get("num_labels", 2)
    _require_count("num_labels", count)
    named = config.get("id2label") or {str(i): f"LABEL_{i}" for i in range(count)}
    try:
        by_label = {int(label): str(name) for label, name in named.items()}
    except (AttributeError, ValueError):
        by_label = {}
    if not by_label or sorted(by_label) != list(range(len(by_label))):
        raise UserError(
            'config.json: id2label must number its labels, {"0": name, "1": name, …}; '
            f"got {str(named)[:80]}"
        )
    names = tuple(by_label[label] for label in range(len(by_label)))
    if "category_ids" in config:
        ids = _read_ids(config["category_ids"], len(names))
        return Classes(names, ids, _read_stuff(config.get("stuff", []), len(names))), []
    if _is_coco_panoptic(names):
        return COCO_PANOPTIC, []
    ids = tuple(None if name == HOLE else label for label, name in enumerate(names))
    known = Classes(names, ids) == COCO_91
    notes = [] if known else ["that labels are category ids (config.json does not tell)"]
    return Classes(names, ids), notes


def _is_coco_panoptic(names: tuple[str, ...]) -> bool:
    """Whether names are COCO's things and stuff; published files leave some of them out."""
    known = zip(names, COCO_PANOPTIC.names, strict=False)
    fitting = all(a in (b, HOLE) or PLACEHOLDER.fullmatch(a) for a, b in known)
    return len(names) == len(COCO_PANOPTIC) and fitting and "person" in names


def _read_stuff(stuff, count: int) -> list[int]:
    if not isinstance(stuff, list) or not all(type(x) is int and 0 <= x < count for x in stuff):
        raise UserError(
            f"config.json: stuff must list labels from 0 to {count - 1}; got {str(stuff)[:80]}"
        )
    return stuff


def _read_ids(ids, count: int) -> tuple[int | None, ...]:
    good = isinstance(ids, list) and len(ids) == count
    if not good or not all(id_ is None or (type(id_) is int and id_ >= 0) for id_ in ids):
        raise UserError(
            f"config.json: category_ids must give a whole number or null to each of {count} "
            f"labels; got {str(ids)[:80]}"
        )
    return tuple(ids)


def _read_backbone(config, masks: bool) -> tuple[int, bool, int]:
    """Depth, dilation and the channels of the stem."""
    inner = config.get("backbone_config") or {}
    if not isinstance(inner, Mapping):
        raise UserError(f"config.json: backbone_config must be an object; got {inner!r}")
    timm = inner.get("model_type") == "timm_backbone" or (
        not inner and config.get("use_timm_backbone", True)
    )
    if timm:
        return *_read_timm(config, inner, masks), RESNET["embedding_size"]
    _require("backbone_config.model_type", inner.get("model_type", "resnet"), ["resnet"])
    # transformers itself dilates timm's backbones only.
    _require("dilation with its own ResNet", config.get("dilation", False), [False])
    found = {name: inner.get(name, value) for name, value in RESNET.items()}
    for name in ("depths", "hidden_sizes"):
        if not isinstance(found[name], list):
            raise UserError(f"config.json: backbone_config.{name} must be a list of numbers")
    for name in sorted(set(RESNET) - {"embedding_size", "hidden_sizes", "depths", "layer_type"}):
        _require(f"backbone_config.{name}", found[name], [RESNET[name]])
    # DETR takes the last of the features, its mask head the others.
    features = inner.get("out_features") or ["stage4"]
    _require("the last of backbone_config.out_features", features[-1], ["stage4"])
    if masks:
        _require("backbone_config.out_features", features, [STAGES])
    stem = found["embedding_size"]
    _require_count("backbone_config.embedding_size", stem)
    for depth, (depths, bottleneck) in SIZES.items():
        if found["depths"] == list(depths) and bottleneck == (found["layer_type"] != "basic"):
            widths = hidden_sizes(stem, bottleneck)
            _require("backbone_config.hidden_sizes", found["hidden_sizes"], [widths])
            return depth, False, stem
    allowed = [list(depths) for depths, _ in SIZES.values()]
    _require(f"backbone_config.depths of {found['layer_type']} layers", found["depths"], allowed)
    raise UserError(f"backbone_config.layer_type {found['layer_type']!r} has no such depths")


def hidden_sizes(stem: int, bottleneck: bool) -> list[int]:
    """Channels of the four stages of a ResNet."""
    return [stem * (4 if bottleneck else 1) * 2**stage for stage in range(4)]


def _read_timm(config, inner, masks: bool) -> tuple[int, bool]:
    name = (inner.get("backbone") or config.get("backbone") or "resnet50").split(".")[0]
    _require("backbone", name, [f"resnet{depth}" for depth in SIZES])
    options = {**(config.get("backbone_kwargs") or {}), **inner}
    indices = list(options.get("out_indices") or [1, 2, 3, 4])
    _require("backbone_config.out_indices", indices[-1], [4, -1])
    if masks:
        _require("backbone_config.out_indices", indices, [[1, 2, 3, 4]])
    stride = options.get("output_stride") or (16 if config.get("dilation") else 32)
    _require("backbone_config.output_stride", stride, [16, 32])
    return int(name.removeprefix("resnet")), stride == 16


def _require(field: str, value, allowed) -> None:
    if value not in list(allowed):
        options = " or ".join(repr(option) for option in allowed)
        raise UserError(f"config.json: {field} must be {options}; got {value!r}")


def _require_count(field: str, value) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"config.json: {field} must be a whole number above 0; got {value!r}")

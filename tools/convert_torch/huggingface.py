"""Hugging Face's `config.json` and `preprocessor_config.json` of DETR, read and written.

Reading is strict: a field that would change the model and that the builders do not know is an
error that names it; fields that only training or bookkeeping reads are listed below.
"""

from collections.abc import Mapping
from typing import Any

from flax import linen as nn

from jaxseg.backbones.resnet import SIZES, FrozenBatchNorm
from jaxseg.checkpoints import ImageConfig
from jaxseg.data.classes import HOLE, Classes
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
    *("torchscript", "finetuning_task", "_attn_implementation_autoset", "license"),
}
BACKBONE = {
    *("backbone", "backbone_config", "backbone_kwargs", "use_timm_backbone", "dilation"),
    *("decoder_attention_heads", "decoder_ffn_dim"),
}
# What transformers' ResNetConfig assumes where a file is silent, and what must hold here.
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
NAMES = {
    (50, False): "detr.r50",
    (50, True): "detr.r50_dc5",
    (101, False): "detr.r101",
    (101, True): "detr.r101_dc5",
}


def read_config(config: Mapping[str, Any]) -> tuple[str, dict[str, Any], Classes]:
    """A `DetrForObjectDetection` config as a builder's name, its arguments and the classes.

    A null stands for what transformers assumes, as it does there.

    Raises:
      UserError: another model, or a field whose value cannot be reproduced, by name.
    """
    config = {name: value for name, value in config.items() if value is not None}
    if config.get("model_type") != "detr":
        raise UserError(
            f"model_type must be 'detr'; got {config.get('model_type')!r}, which is another model "
            "and is not loaded as DETR"
        )
    architectures = config.get("architectures", ["DetrForObjectDetection"])
    _require("architectures", architectures, [["DetrForObjectDetection"]])
    for name, allowed in FIXED.items():
        _require(name, config.get(name, allowed[0]), allowed)
    known = {*RENAMED, *FIXED, *TRAINING, *BOOKKEEPING, *BACKBONE}
    if unknown := sorted(set(config) - known):
        raise UserError(f"config.json has fields that are not supported: {', '.join(unknown)}")
    kwargs = {ours: config.get(name, value) for name, (ours, value) in RENAMED.items()}
    _require("activation_function", kwargs["activation"], ACTIVATIONS)
    _require("position_embedding_type", kwargs["position"], POSITIONS)
    heads, feedforward = kwargs["num_heads"], kwargs["feedforward"]
    _require("decoder_attention_heads", config.get("decoder_attention_heads", 8), [heads])
    _require("decoder_ffn_dim", config.get("decoder_ffn_dim", 2048), [feedforward])
    depth, dilation = _read_backbone(config)
    classes = read_classes(config)
    name, size = name_builder(depth, dilation)
    return name, {**size, **kwargs, "num_classes": len(classes)}, classes


def name_builder(depth: int, dilation: bool) -> tuple[str, dict[str, Any]]:
    """The builder of a published size, or R50's with the arguments that change its size."""
    if (depth, dilation) in NAMES:
        return NAMES[depth, dilation], {}
    return NAMES[50, dilation], {"depth": depth}


def read_classes(config: Mapping[str, Any]) -> Classes:
    """`id2label` as classes; the label is the category id, "N/A" a hole."""
    # transformers leaves out what it would assume: two labels.
    count = config.get("num_labels", 2)
    names = config.get("id2label") or {str(i): f"LABEL_{i}" for i in range(count)}
    by_label = {int(label): str(name) for label, name in names.items()}
    if sorted(by_label) != list(range(len(by_label))):
        raise UserError(f"id2label must number its labels 0, 1, 2, …; got {sorted(by_label)[:20]}")
    ordered = [by_label[label] for label in range(len(by_label))]
    return Classes(
        tuple(ordered), tuple(None if n == HOLE else label for label, n in enumerate(ordered))
    )


def _read_backbone(config) -> tuple[int, bool]:
    inner = config.get("backbone_config") or {}
    timm = inner.get("model_type") == "timm_backbone" or (
        not inner and config.get("use_timm_backbone", True)
    )
    if timm:
        return _read_timm(config, inner)
    _require("backbone_config.model_type", inner.get("model_type", "resnet"), ["resnet"])
    # transformers itself dilates timm's backbones only.
    _require("dilation with its own ResNet", config.get("dilation", False), [False])
    found = {name: inner.get(name, value) for name, value in RESNET.items()}
    for name in set(RESNET) - {"hidden_sizes", "depths", "layer_type"}:
        _require(f"backbone_config.{name}", found[name], [RESNET[name]])
    _require("backbone_config.out_features", inner.get("out_features"), [["stage4"], None])
    for depth, (depths, bottleneck) in SIZES.items():
        if tuple(found["depths"]) == depths and bottleneck == (found["layer_type"] != "basic"):
            widths = [(256 if bottleneck else 64) * 2**i for i in range(4)]
            _require("backbone_config.hidden_sizes", list(found["hidden_sizes"]), [widths])
            return depth, False
    allowed = [list(depths) for depths, _ in SIZES.values()]
    _require(f"backbone_config.depths of {found['layer_type']} layers", found["depths"], allowed)
    raise UserError(f"backbone_config.layer_type {found['layer_type']!r} has no such depths")


def _read_timm(config, inner) -> tuple[int, bool]:
    name = (inner.get("backbone") or config.get("backbone") or "resnet50").split(".")[0]
    _require("backbone", name, [f"resnet{depth}" for depth in SIZES])
    options = {**(config.get("backbone_kwargs") or {}), **inner}
    indices = options.get("out_indices") or [4]
    _require("backbone_config.out_indices", indices[-1], [4, -1])
    stride = options.get("output_stride") or (16 if config.get("dilation") else 32)
    _require("backbone_config.output_stride", stride, [16, 32])
    return int(name.removeprefix("resnet")), stride == 16


def _require(field: str, value, allowed) -> None:
    if value not in list(allowed):
        options = " or ".join(repr(option) for option in allowed)
        raise UserError(f"config.json: {field} must be {options}; got {value!r}")


def read_preprocessor(config: Mapping[str, Any]) -> ImageConfig:
    """`preprocessor_config.json` of transformers 4 (sizes as one number) or later."""
    for name in ("do_normalize", "do_rescale", "do_resize"):
        if not config.get(name, True):
            raise UserError(f"preprocessor_config.json: {name} must be true")
    factor = config.get("rescale_factor", 1 / 255)
    if abs(factor * 255 - 1) > 1e-6:
        raise UserError(f"preprocessor_config.json: rescale_factor must be 1/255; got {factor}")
    default = ImageConfig()
    size = config.get("size", default.short_side)
    if isinstance(size, int):
        size = {"shortest_edge": size, "longest_edge": config.get("max_size", default.long_side)}
    if not {"shortest_edge", "longest_edge"} <= set(size):
        raise UserError(
            f"preprocessor_config.json: size must give shortest_edge and longest_edge; got {size}"
        )
    return ImageConfig(
        mean=tuple(config.get("image_mean", default.mean)),
        std=tuple(config.get("image_std", default.std)),
        short_side=size["shortest_edge"],
        long_side=size["longest_edge"],
    )


def write_config(model: nn.Module, classes: Classes, table: str) -> dict[str, Any]:
    """The `config.json` with which transformers builds a DETR of ours.

    Args:
      table: whose names the weights have; only timm's backbones can be dilated.

    Raises:
      UserError: transformers' DETR has no such part.
    """
    encoder, decoder, backbone = model.encoder, model.decoder, model.backbone
    if backbone.norm is not FrozenBatchNorm or encoder.pre_norm:
        what = "pre-norm layers" if encoder.pre_norm else "group normalisation in its ResNet"
        raise UserError(f"transformers' DETR has no {what}; write the official form instead")
    id2label = {str(label): name for label, name in enumerate(classes.names)}
    return {
        "architectures": ["DetrForObjectDetection"],
        "model_type": "detr",
        "d_model": model.width,
        "encoder_layers": encoder.num_layers,
        "decoder_layers": decoder.num_layers,
        "encoder_attention_heads": encoder.num_heads,
        "decoder_attention_heads": decoder.num_heads,
        "encoder_ffn_dim": encoder.feedforward,
        "decoder_ffn_dim": decoder.feedforward,
        "dropout": encoder.dropout,
        "activation_function": _name_of(encoder.activation, ACTIVATIONS),
        "position_embedding_type": _name_of(type(model.position), POSITIONS),
        "num_queries": model.num_queries,
        "id2label": id2label,
        "label2id": {name: int(label) for label, name in id2label.items()},
        **_write_backbone(backbone, table),
    }


def _name_of(value, table: Mapping[str, Any]) -> str:
    return next(name for name, known in table.items() if known is value)


def _write_backbone(backbone, table) -> dict[str, Any]:
    depth = next(
        d for d, size in SIZES.items() if size == (tuple(backbone.depths), backbone.bottleneck)
    )
    if table == "detr.huggingface":
        return {
            "use_timm_backbone": True,
            "backbone": f"resnet{depth}",
            "dilation": backbone.dilation,
            "use_pretrained_backbone": False,
        }
    widths = [(256 if backbone.bottleneck else 64) * 2**i for i in range(4)]
    return {
        "use_timm_backbone": False,
        "backbone": None,
        "use_pretrained_backbone": False,
        "backbone_config": RESNET
        | {
            "model_type": "resnet",
            "depths": list(backbone.depths),
            "hidden_sizes": widths,
            "layer_type": "bottleneck" if backbone.bottleneck else "basic",
            "out_features": ["stage4"],
        },
    }


def write_preprocessor(image: ImageConfig) -> dict[str, Any]:
    """The `preprocessor_config.json` of an `ImageConfig`."""
    return {
        "image_processor_type": "DetrImageProcessor",
        "format": "coco_detection",
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "do_pad": True,
        "rescale_factor": 1 / 255,
        "resample": 2,
        "image_mean": list(image.mean),
        "image_std": list(image.std),
        "size": {"shortest_edge": image.short_side, "longest_edge": image.long_side},
    }

"""One function for each published DETR (arXiv 2005.12872, tables 1 and 5), and small ones."""

import dataclasses

import jax.numpy as jnp
from flax import linen as nn

from jaxseg.backbones.resnet import resnet
from jaxseg.models.detr.decoder import Decoder
from jaxseg.models.detr.detr import Canvas, Detr
from jaxseg.models.detr.encoder import Encoder
from jaxseg.models.detr.mask_head import AttentionMaps, MaskHead
from jaxseg.models.detr.segmentation import DetrSegmentation
from jaxseg.nn.position import LearnedPosition, SinePosition
from jaxseg.typing import DTypeLike

ACTIVATIONS = {"relu": nn.relu, "gelu": lambda x: nn.gelu(x, approximate=False)}
POSITIONS = {"sine": SinePosition, "learned": LearnedPosition}
TINY = {
    "depth": 18,
    "norm": "group_norm",
    "width": 128,
    "feedforward": 512,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "num_queries": 50,
    "num_classes": 5,
    "dropout": 0.0,
    "canvas": "exact",
}


def detr(
    *,
    depth: int = 50,
    norm: str = "frozen_batch_norm",
    stem: int = 64,
    dilation: bool = False,
    width: int = 256,
    num_heads: int = 8,
    feedforward: int = 2048,
    encoder_layers: int = 6,
    decoder_layers: int = 6,
    dropout: float = 0.1,
    activation: str = "relu",
    pre_norm: bool = False,
    position: str = "sine",
    num_queries: int = 100,
    num_classes: int = 91,
    canvas: Canvas = "padded",
    remat: bool = False,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
) -> Detr:
    """Any DETR; the defaults are the paper's ResNet-50 model.

    Args:
      depth: of the ResNet: 18, 34, 50 or 101.
      norm: "frozen_batch_norm", or "group_norm" to train from random weights.
      stem: channels of the ResNet's stem; 64 is every published model's.
      dilation: DC5, stride 16 in the last stage.
      position: "sine" or "learned".
      remat: recompute layers in the backward pass to save memory.
    """
    dtypes = {"dtype": dtype, "param_dtype": param_dtype}
    layers = {
        "num_heads": num_heads,
        "feedforward": feedforward,
        "dropout": dropout,
        "activation": _choose("activation", activation, ACTIVATIONS),
        "pre_norm": pre_norm,
        "remat": remat,
        **dtypes,
    }
    return Detr(
        backbone=resnet(depth, norm, width=stem, dilation=dilation, **dtypes),
        encoder=Encoder(encoder_layers, **layers),
        decoder=Decoder(decoder_layers, **layers),
        position=_position(position, width, param_dtype),
        num_classes=num_classes,
        num_queries=num_queries,
        width=width,
        canvas=canvas,
        **dtypes,
    )


def r50(**fields) -> Detr:
    """DETR-R50: 42.0 AP on COCO val2017 after 500 epochs."""
    return detr(**{"depth": 50} | fields)


def r50_dc5(**fields) -> Detr:
    """DETR-DC5-R50: 43.3 AP."""
    return detr(**{"depth": 50, "dilation": True} | fields)


def r101(**fields) -> Detr:
    """DETR-R101: 43.5 AP."""
    return detr(**{"depth": 101} | fields)


def r101_dc5(**fields) -> Detr:
    """DETR-DC5-R101: 44.9 AP."""
    return detr(**{"depth": 101, "dilation": True} | fields)


def segmentation(*, queries_at_once: int | None = None, **fields) -> DetrSegmentation:
    """Any DETR with a mask head.

    Args:
      queries_at_once: as in `MaskHead`; 100 masks on a canvas of 800 × 1088 take 1 GB an image,
        5 GB in training, and 25 at a time a quarter of that.
      fields: of `detr`.
    """
    detector = detr(**fields)
    parts = {
        field.name: getattr(detector, field.name)
        for field in dataclasses.fields(detector)
        if field.init and field.name not in ("parent", "name")
    }
    dtypes = {"dtype": detector.dtype, "param_dtype": detector.param_dtype}
    return DetrSegmentation(
        **parts | {"backbone": detector.backbone.clone(stages=(0, 1, 2, 3))},
        bbox_attention=AttentionMaps(detector.encoder.num_heads, **dtypes),
        mask_head=MaskHead(detector.width, queries_at_once, **dtypes),
    )


def r50_panoptic(**fields) -> DetrSegmentation:
    """DETR-R50 with masks, COCO's things and stuff: 43.4 PQ on COCO val2017."""
    return segmentation(**{"depth": 50, "num_classes": 250} | fields)


def r50_dc5_panoptic(**fields) -> DetrSegmentation:
    """DETR-DC5-R50 with masks, things and stuff: 44.6 PQ."""
    return segmentation(**{"depth": 50, "dilation": True, "num_classes": 250} | fields)


def r101_panoptic(**fields) -> DetrSegmentation:
    """DETR-R101 with masks, things and stuff: 45.1 PQ."""
    return segmentation(**{"depth": 101, "num_classes": 250} | fields)


def r50_instance(**fields) -> DetrSegmentation:
    """DETR-R50 with masks of COCO's objects alone."""
    return segmentation(**{"depth": 50} | fields)


def r101_instance(**fields) -> DetrSegmentation:
    """DETR-R101 with masks of COCO's objects alone."""
    return segmentation(**{"depth": 101} | fields)


def tiny(**fields) -> Detr:
    """A DETR for two CPU cores and random weights: ResNet-18 with group norm, 128 wide."""
    return detr(**TINY | fields)


def tiny_masks(**fields) -> DetrSegmentation:
    """The same with a mask head."""
    return segmentation(**TINY | fields)


def _position(name: str, width: int, param_dtype: DTypeLike) -> nn.Module:
    kind = _choose("position", name, POSITIONS)
    return kind(width) if kind is SinePosition else kind(width, param_dtype=param_dtype)


def _choose(what: str, name: str, table: dict):
    if name not in table:
        raise ValueError(f"no {what} {name!r}; there are {sorted(table)}")
    return table[name]

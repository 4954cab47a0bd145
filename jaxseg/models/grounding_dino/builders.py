"""One function for each published Grounding DINO (arXiv 2303.05499), and a small one."""

from collections.abc import Sequence

import jax.numpy as jnp

from jaxseg.backbones.resnet import resnet
from jaxseg.backbones.swin import swin as build_swin
from jaxseg.kernels.ms_deform_attn import Implementation
from jaxseg.models.detr.deformable_decoder import (
    DeformableDecoder,
    DeformableDecoderLayer,
    ReferencePosition,
)
from jaxseg.models.detr.levels import level_stages
from jaxseg.models.grounding_dino.decoder import GroundedDecoderLayer
from jaxseg.models.grounding_dino.enhancer import FeatureEnhancer
from jaxseg.models.grounding_dino.fusion import Apart, Fusion
from jaxseg.models.grounding_dino.grounding_dino import GroundingDino
from jaxseg.necks.channel_mapper import ChannelMapper
from jaxseg.nn.position import SinePosition
from jaxseg.text.bert import Bert
from jaxseg.typing import DTypeLike

FUSIONS = {True: Fusion, False: Apart}


def grounding_dino(
    *,
    swin: str | Sequence | None = "tiny",
    pretraining: int | None = None,
    drop_path: float = 0.2,
    depth: int = 50,
    norm: str = "frozen_batch_norm",
    stem: int = 64,
    num_levels: int = 4,
    width: int = 256,
    num_heads: int = 8,
    num_points: int = 4,
    feedforward: int = 2048,
    encoder_layers: int = 6,
    decoder_layers: int = 6,
    dropout: float = 0.0,
    fusion: bool = True,
    fusion_heads: int = 4,
    fusion_width: int = 1024,
    fusion_drop_path: float = 0.1,
    text_heads: int = 4,
    text_feedforward: int = 1024,
    text_attention: bool = True,
    bert_layers: int = 12,
    bert_width: int = 768,
    bert_heads: int = 12,
    bert_feedforward: int = 3072,
    bert_dropout: float = 0.1,
    bert_pooler: bool = True,
    vocabulary: int = 30522,
    implementation: Implementation | None = None,
    remat: bool = False,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
    **fields,
) -> GroundingDino:
    """Any Grounding DINO; the defaults are the paper's Swin-T model.

    Args:
      swin: a size in `backbones.swin.SIZES`, or its width, depths and heads; None takes a ResNet.
      pretraining: side of the images that the Swin was pre-trained with, which gives its windows;
        None is 384 for base and large, 224 for the smaller.
      drop_path: rate of the Swin's last block.
      depth, norm, stem: of the ResNet, as in `detr.detr`.
      num_levels: 3 are of strides 8 to 32; a fourth has stride 64, a fifth stride 4.
      num_points: samples a head and level.
      fusion: whether image and words read each other in the encoder.
      text_attention: whether queries read the words.
      bert_layers, bert_width, bert_heads, bert_feedforward, bert_dropout, vocabulary: of BERT.
      bert_pooler: keep BERT's pooler, which official files have and nothing uses.
      implementation: of the sampling, see `kernels.ms_deform_attn`.
      remat: recompute layers in the backward pass to save memory.
      fields: of `GroundingDino`.
    """
    dtypes = {"dtype": dtype, "param_dtype": param_dtype}
    layers = {
        "num_heads": num_heads,
        "num_points": num_points,
        "feedforward": feedforward,
        "dropout": dropout,
        "implementation": implementation,
        "remat": remat,
        **dtypes,
    }
    stages = (0, 1, 2, 3) if num_levels > 4 else level_stages(num_levels)
    if swin is not None:
        pretraining = pretraining or (384 if swin in ("base", "large") else 224)
        options = {"stages": stages, "drop_path": drop_path, "remat": remat, **dtypes}
        backbone = build_swin(swin, pretraining, **options)
    else:
        backbone = resnet(depth, norm, width=stem, stages=stages, **dtypes)
    return GroundingDino(
        backbone=backbone,
        neck=ChannelMapper(width, num_levels, **dtypes),
        bert=Bert(
            num_layers=bert_layers,
            width=bert_width,
            num_heads=bert_heads,
            mlp_width=bert_feedforward,
            vocabulary=vocabulary,
            dropout=bert_dropout,
            pooler=bert_pooler,
            **dtypes,
        ),
        encoder=FeatureEnhancer(
            encoder_layers,
            fusion=FUSIONS[fusion],
            fusion_heads=fusion_heads,
            fusion_width=fusion_width,
            drop_path=fusion_drop_path,
            text_heads=text_heads,
            text_feedforward=text_feedforward,
            **layers,
        ),
        decoder=DeformableDecoder(
            decoder_layers,
            layer=GroundedDecoderLayer if text_attention else DeformableDecoderLayer,
            final_norm=True,
            query_position=ReferencePosition(width, **dtypes),
            **layers,
        ),
        position=SinePosition(width, temperature=(20.0, 20.0)),
        width=width,
        **fields,
        **dtypes,
    )


def swin_t(**fields) -> GroundingDino:
    """Grounding DINO Swin-T: zero-shot 48.4 AP on COCO val2017 (O365, GoldG, Cap4M)."""
    return grounding_dino(**fields)


def swin_b(**fields) -> GroundingDino:
    """Grounding DINO Swin-B, pre-trained at 384: 56.7 AP on COCO val2017, which it has seen."""
    return grounding_dino(**{"swin": "base"} | fields)


def tiny(**fields) -> GroundingDino:
    """One for two CPU cores and random weights: a ResNet-18 with group norm, a BERT of 2 layers."""
    small = {
        "swin": None,
        "depth": 18,
        "norm": "group_norm",
        "width": 128,
        "feedforward": 512,
        "encoder_layers": 2,
        "decoder_layers": 3,
        "fusion_width": 256,
        "text_feedforward": 256,
        "bert_layers": 2,
        "bert_width": 128,
        "bert_heads": 4,
        "bert_feedforward": 512,
        "bert_pooler": False,
        "num_queries": 100,
        "canvas": "exact",
    }
    return grounding_dino(**small | fields)

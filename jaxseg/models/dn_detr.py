"""DN-DETR: DAB-DETR trained with noised targets as further queries (arXiv 2203.01305).

The models are `dab_detr.DabDetr` and `dab_deformable_detr.DabDeformableDetr` with a `LabelContent`.
The paper's own DN-Deformable-DETR has deformable attention in its encoder only: a `DabDetr` whose
dense decoder reads several levels.
"""

import jax.numpy as jnp

from jaxseg.backbones.resnet import resnet
from jaxseg.kernels.ms_deform_attn import Implementation
from jaxseg.models.dab_deformable_detr import DabDeformableDetr, dab_deformable_detr
from jaxseg.models.dab_detr import EPSILON, DabDetr, dab_detr
from jaxseg.models.detr.dab_decoder import DabDecoder, LevelsLayer
from jaxseg.models.detr.deformable_encoder import DeformableEncoder
from jaxseg.models.detr.label_content import LabelContent
from jaxseg.models.detr.levels import level_stages
from jaxseg.necks.channel_mapper import ChannelMapper
from jaxseg.nn.position import SinePosition
from jaxseg.typing import DTypeLike


def encoder_only(
    *,
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
    temperature: float = 20.0,
    num_patterns: int = 3,
    denoising: bool = True,
    dn_groups: int = 5,
    label_noise: float = 0.2,
    box_noise: float = 0.4,
    implementation: Implementation | None = None,
    remat: bool = False,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
    **fields,
) -> DabDetr:
    """Any DN-Deformable-DETR whose encoder alone is deformable (tables 2 and 3).

    Args:
      depth, norm, stem: of the ResNet, as in `detr.detr`.
      num_levels, num_points, implementation: as in `deformable_detr.deformable_detr`.
      temperature: of the image's sines.
      denoising: without it content is zero and this is DAB-Deformable-DETR, encoder only.
      dn_groups, label_noise, box_noise: of `LabelContent`.
      remat: recompute layers in the backward pass: attention to all tokens is large.
      fields: of `DabDetr`.
    """
    dtypes = {"dtype": dtype, "param_dtype": param_dtype}
    layers = {
        "num_heads": num_heads,
        "feedforward": feedforward,
        "dropout": dropout,
        "remat": remat,
        **dtypes,
    }
    epsilon = fields.get("epsilon", EPSILON)
    labels = LabelContent(width, dn_groups, label_noise, box_noise, epsilon, **dtypes)
    stages = level_stages(num_levels)
    return DabDetr(
        backbone=resnet(depth, norm, width=stem, stages=stages, **dtypes),
        neck=ChannelMapper(width, num_levels, **dtypes),
        encoder=DeformableEncoder(
            encoder_layers, num_points=num_points, implementation=implementation, **layers
        ),
        decoder=DabDecoder(decoder_layers, layer=LevelsLayer, **layers),
        position=SinePosition(width, temperature=(temperature, temperature)),
        labels=labels if denoising else None,
        num_patterns=num_patterns,
        width=width,
        **fields,
        **dtypes,
    )


def r50(**fields) -> DabDetr:
    """DN-DETR-R50: 44.4 AP on COCO val2017 after 50 epochs."""
    return dab_detr(**{"denoising": True} | fields)


def r50_dc5(**fields) -> DabDetr:
    """DN-DETR-DC5-R50: 46.3 AP."""
    return dab_detr(**{"denoising": True, "dilation": True} | fields)


def r50_dc5_3patterns(**fields) -> DabDetr:
    """DN-DETR-DC5-R50 with 3 patterns: 41.7 AP after 12 epochs."""
    return dab_detr(**{"denoising": True, "dilation": True, "num_patterns": 3} | fields)


def deformable_r50(**fields) -> DabDeformableDetr:
    """DN-DAB-Deformable-DETR-R50: 49.5 AP after 50 epochs."""
    return dab_deformable_detr(**{"denoising": True} | fields)


def encoder_only_r50(**fields) -> DabDetr:
    """DN-Deformable-DETR-R50, deformable in its encoder only: 48.6 AP after 50 epochs."""
    return encoder_only(**fields)

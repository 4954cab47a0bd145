"""A function for each published Segment Anything (arXiv 2304.02643, section A), and a small one."""

from collections.abc import Sequence

import jax.numpy as jnp

from jaxseg.backbones.vit import SIZES, ViT
from jaxseg.models.sam.image_encoder import ImageEncoder, Neck
from jaxseg.models.sam.mask_decoder import MaskDecoder
from jaxseg.models.sam.prompt_encoder import PromptEncoder
from jaxseg.models.sam.sam import Sam
from jaxseg.models.sam.two_way import TwoWayTransformer
from jaxseg.typing import DTypeLike


def sam(
    *,
    encoder_width: int = 1280,
    encoder_depth: int = 32,
    encoder_heads: int = 16,
    global_blocks: Sequence[int] = (7, 15, 23, 31),
    image_size: int = 1024,
    patch: int = 16,
    window: int = 14,
    mlp_ratio: float = 4.0,
    relative: bool = True,
    drop_path: float = 0.0,
    remat: bool = False,
    width: int = 256,
    decoder_layers: int = 2,
    num_heads: int = 8,
    feedforward: int = 2048,
    downsample: int = 2,
    dropout: float = 0.0,
    decoder_epsilon: float = 1e-5,
    mask_channels: int = 16,
    multimask_outputs: int = 3,
    iou_width: int = 256,
    iou_layers: int = 3,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
) -> Sam:
    """Any SAM; the defaults are the paper's ViT-H.

    Args:
      encoder_width, encoder_depth, encoder_heads, global_blocks: of the image encoder.
      image_size: pixels of a side of the canvas.
      patch, window: sides of the image encoder's patches in pixels, and windows in tokens.
      mlp_ratio, relative: width of its perceptrons; whether it has relative positions.
      drop_path: rate of its last block; the paper trains with 0.4 (ViT-B: 0.6).
      remat: recompute its blocks in the backward pass to save memory.
      width: of embeddings and prompts.
      decoder_layers, num_heads, feedforward, downsample: of the two-way transformer.
      dropout: in it; the paper trains with 0.1.
      decoder_epsilon: of the norms of its layers; Hugging Face's configs have 1e-6.
      mask_channels: of the convolutions of mask prompts.
      multimask_outputs: masks that an ambiguous prompt is answered with.
      iou_width, iou_layers: of the head that predicts the masks' quality.
    """
    dtypes = {"dtype": dtype, "param_dtype": param_dtype}
    if image_size % patch:
        raise ValueError(
            f"image_size must be a multiple of the patch; got {image_size} and {patch}"
        )
    transformer = TwoWayTransformer(
        decoder_layers, num_heads, feedforward, downsample, dropout, decoder_epsilon, **dtypes
    )
    return Sam(
        ImageEncoder(
            ViT(
                width=encoder_width,
                depth=encoder_depth,
                num_heads=encoder_heads,
                global_blocks=tuple(global_blocks),
                drop_path=drop_path,
                patch=patch,
                window=window,
                image_size=image_size,
                position_size=image_size,
                relative=relative,
                mlp_ratio=mlp_ratio,
                remat=remat,
                **dtypes,
            ),
            Neck(width, **dtypes),
        ),
        PromptEncoder(width, image_size, image_size // patch, mask_channels, **dtypes),
        MaskDecoder(transformer, multimask_outputs, iou_width, iou_layers, **dtypes),
        dtype=dtype,
    )


def vit_b(**fields) -> Sam:
    """SAM ViT-B: 94 M parameters."""
    return sam(**_size("base") | fields)


def vit_l(**fields) -> Sam:
    """SAM ViT-L: 312 M parameters."""
    return sam(**_size("large") | fields)


def vit_h(**fields) -> Sam:
    """SAM ViT-H, the paper's own: 641 M parameters."""
    return sam(**_size("huge") | fields)


def tiny(**fields) -> Sam:
    """A SAM for two CPU cores and random weights: images of 256 × 256, 4 blocks of 128."""
    small = {
        "encoder_width": 128,
        "encoder_depth": 4,
        "encoder_heads": 4,
        "global_blocks": (1, 3),
        "image_size": 256,
        "window": 7,
        "width": 64,
        "num_heads": 4,
        "feedforward": 256,
        "iou_width": 64,
    }
    return sam(**small | fields)


def _size(name: str) -> dict:
    size = SIZES[name]
    return {
        "encoder_width": size.width,
        "encoder_depth": size.depth,
        "encoder_heads": size.num_heads,
        "global_blocks": size.global_blocks,
    }

"""Segment Anything: the official names and Hugging Face's."""

from collections.abc import Mapping
from typing import Any

from jaxseg_convert_torch.positions import GRID
from jaxseg_convert_torch.table import Fusion, Rename, Table, rename
from jaxseg_convert_torch.templates import Template
from jaxseg_convert_torch.vit_tables import (
    AXES,
    vit_fusion,
    vit_layouts,
    vit_modules,
    vit_position,
    vit_relative,
)

ENCODER, VIT = "image_encoder.", "image_encoder/vit/"
LAYER = "mask_decoder.transformer.layers.{i}."
OUR_LAYER = "mask_decoder/transformer/layer_{i}/"
ATTENTION = "{a:self_attn|cross_attn_token_to_image|cross_attn_image_to_token}"
FINAL = "final_attn_token_to_image"
PROJECTION = "{p:q|k|v|out}_proj"
MATRIX = "prompt_encoder/pe_layer/gaussian_matrix"
# Theirs, by place in a sequence or by name, and ours.
NECK = (("0", "conv1", "conv1"), ("1", "layer_norm1", "norm1"),
        ("2", "conv2", "conv2"), ("3", "layer_norm2", "norm2"))  # fmt: skip
MASK = (("0", "conv1", "conv1"), ("1", "layer_norm1", "norm1"), ("3", "conv2", "conv2"),
        ("4", "layer_norm2", "norm2"), ("6", "conv3", "conv3"))  # fmt: skip
UPSCALING = (("0", "upscale_conv1", "conv1"), ("1", "upscale_layer_norm", "norm"),
             ("3", "upscale_conv2", "conv2"))  # fmt: skip


def _decoder_modules() -> tuple[Rename, ...]:
    """What both forms call alike."""
    return (
        rename(f"{LAYER}{ATTENTION}.{PROJECTION}", f"{OUR_LAYER}{ATTENTION}/{PROJECTION}"),
        rename(
            f"mask_decoder.transformer.{FINAL}.{PROJECTION}",
            f"mask_decoder/transformer/{FINAL}/{PROJECTION}",
        ),
        rename(f"{LAYER}mlp.lin1", f"{OUR_LAYER}mlp/layer_0"),
        rename(f"{LAYER}mlp.lin2", f"{OUR_LAYER}mlp/layer_1"),
    )


def _tensors(matrix: str, points: str) -> tuple[Rename, ...]:
    return (
        rename(matrix, MATRIX),
        rename(f"prompt_encoder.{points}.{{i}}.weight", "prompt_encoder/point_embeddings_{i}"),
        *(
            rename(f"prompt_encoder.{name}.weight", f"prompt_encoder/{name}")
            for name in ("not_a_point_embed", "no_mask_embed")
        ),
        *(
            rename(f"mask_decoder.{name}.weight", f"mask_decoder/{name}")
            for name in ("iou_token", "mask_tokens")
        ),
    )


def _official() -> Table:
    masks = "output_hypernetworks_mlps"
    return Table(
        "sam",
        "Segment Anything",
        (
            *vit_modules(ENCODER, VIT, "lin"),
            *(rename(f"{ENCODER}neck.{n}", f"image_encoder/neck/{x}") for n, _, x in NECK),
            *(
                rename(
                    f"prompt_encoder.mask_downscaling.{n}", f"prompt_encoder/mask_downscaling/{x}"
                )
                for n, _, x in MASK
            ),
            *_decoder_modules(),
            rename(f"{LAYER}norm{{n}}", f"{OUR_LAYER}norm{{n}}"),
            rename(
                "mask_decoder.transformer.norm_final_attn",
                "mask_decoder/transformer/norm_final_attn",
            ),
            *(
                rename(f"mask_decoder.output_upscaling.{n}", f"mask_decoder/output_upscaling/{x}")
                for n, _, x in UPSCALING
            ),
            rename(
                f"mask_decoder.{masks}.{{k}}.layers.{{n}}",
                f"mask_decoder/{masks}_{{k}}/layer_{{n}}",
            ),
            rename(
                "mask_decoder.iou_prediction_head.layers.{n}",
                "mask_decoder/iou_prediction_head/layer_{n}",
            ),
        ),
        tensors=(
            vit_position(ENCODER, VIT),
            vit_relative(ENCODER, VIT),
            *_tensors(
                "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix", "point_embeddings"
            ),
        ),
        fusions=(vit_fusion(ENCODER),),
        layouts=vit_layouts(GRID),
    )


def _huggingface() -> Table:
    theirs, ours = "vision_encoder.layers.{i}.", f"{VIT}block_{{i}}/"
    matrix = "shared_image_embedding.positional_embedding"
    again = "prompt_encoder.shared_embedding.positional_embedding"

    def heads(official: str, path: str) -> tuple[Rename, ...]:
        """Perceptrons of three layers or more, whose first and last have names."""
        return (
            rename(f"{official}.proj_in", f"{path}/layer_0"),
            rename(f"{official}.layers.0", f"{path}/layer_1"),
            rename(f"{official}.proj_out", f"{path}/layer_2"),
        )

    def repeats(state: Mapping[str, Any]) -> dict[str, str]:
        return {again: matrix} if matrix in state else {}

    return Table(
        "sam.huggingface",
        "Hugging Face Segment Anything",
        (
            rename("vision_encoder.patch_embed.projection", f"{VIT}patch_embed"),
            rename(f"{theirs}layer_norm{{n}}", f"{ours}norm{{n}}"),
            rename(f"{theirs}attn.{{p:[qkv]}}_proj", f"{ours}attn/{{p:[qkv]}}_proj"),
            rename(f"{theirs}attn.proj", f"{ours}attn/out_proj"),
            rename(f"{theirs}mlp.lin{{n}}", f"{ours}mlp/linear{{n}}"),
            *(rename(f"vision_encoder.neck.{n}", f"image_encoder/neck/{x}") for _, n, x in NECK),
            *(
                rename(f"prompt_encoder.mask_embed.{n}", f"prompt_encoder/mask_downscaling/{x}")
                for _, n, x in MASK
            ),
            *_decoder_modules(),
            rename(f"{LAYER}layer_norm{{n}}", f"{OUR_LAYER}norm{{n}}"),
            rename(
                "mask_decoder.transformer.layer_norm_final_attn",
                "mask_decoder/transformer/norm_final_attn",
            ),
            *(
                rename(f"mask_decoder.{n}", f"mask_decoder/output_upscaling/{x}")
                for _, n, x in UPSCALING
            ),
            *heads(
                "mask_decoder.output_hypernetworks_mlps.{k}",
                "mask_decoder/output_hypernetworks_mlps_{k}",
            ),
            *heads("mask_decoder.iou_prediction_head", "mask_decoder/iou_prediction_head"),
        ),
        tensors=(
            rename("vision_encoder.pos_embed", f"{VIT}position_embed"),
            rename(f"{theirs}attn.{AXES}", f"{ours}attn/{AXES}"),
            *_tensors(matrix, "point_embed"),
        ),
        fusions=(
            Fusion(
                Template(f"{theirs}attn.qkv.{{leaf:weight|bias}}"),
                Template(f"{theirs}attn.{{part:[qkv]}}_proj.{{leaf:weight|bias}}"),
                ("q", "k", "v"),
            ),
        ),
        layouts=vit_layouts(GRID),
        aliases=((again.replace(".", r"\."), matrix),),
        lone_aliases=True,
        repeats=repeats,
    )


TABLES = (_official(), _huggingface())

"""Deformable DETR: the official names, without and with refinement."""

import re
from collections.abc import Mapping
from typing import Any

from jaxseg_convert_torch.resnet_tables import COUNTERS, resnet_modules
from jaxseg_convert_torch.table import Fusion, Rename, Table, rename
from jaxseg_convert_torch.templates import Template

SAMPLING = "{p:sampling_offsets|attention_weights|value_proj|output_proj}"
# What a profiler left in some published files.
PROFILER = r"(.*\.)?total_(ops|params)"


def transformer_modules() -> tuple[Rename, ...]:
    """Neck, encoder and decoder layers of all the official deformable detectors."""
    encoder, decoder = "transformer.encoder.layers.{i}.", "transformer.decoder.layers.{i}."
    ours = {encoder: "encoder/layer_{i}/", decoder: "decoder/layer_{i}/"}
    layers = []
    for stack, path in ours.items():
        layers.append(rename(f"{stack}linear{{n}}", f"{path}linear{{n}}"))
        layers.append(rename(f"{stack}norm{{n}}", f"{path}norm{{n}}"))
    attention = "self_attn.{p:[qkv]|out}_proj"
    return (
        rename("input_proj.{i}.0", "neck/conv_{i}"),
        rename("input_proj.{i}.1", "neck/norm_{i}"),
        *layers,
        rename(f"{encoder}self_attn.{SAMPLING}", f"encoder/layer_{{i}}/self_attn/{SAMPLING}"),
        rename(f"{decoder}cross_attn.{SAMPLING}", f"decoder/layer_{{i}}/cross_attn/{SAMPLING}"),
        rename(f"{decoder}{attention}", f"decoder/layer_{{i}}/{attention.replace('.', '/')}"),
        rename("transformer.enc_output", "proposals/enc_output"),
        rename("transformer.enc_output_norm", "proposals/enc_output_norm"),
    )


def packed_self_attention(stack: str) -> Fusion:
    """torch's MultiheadAttention keeps q, k and v in one tensor, in this order."""
    layer = f"transformer.{stack}.layers.{{i}}.self_attn."
    return Fusion(
        Template(layer + "in_proj_{leaf:weight|bias}"),
        Template(layer + "{part:[qkv]}_proj.{leaf:weight|bias}"),
        ("q", "k", "v"),
    )


LEVEL_EMBED = rename("transformer.level_embed", "level_embed")
FUSIONS = (packed_self_attention("decoder"),)


def _modules() -> tuple[Rename, ...]:
    return (
        *resnet_modules("backbone.0.body.", "backbone/"),
        *transformer_modules(),
        rename("query_embed"),
        rename("transformer.reference_points", "reference_points"),
        rename("transformer.pos_trans", "queries/pos_trans"),
        rename("transformer.pos_trans_norm", "queries/pos_trans_norm"),
    )


def decoder_layers(state: Mapping[str, Any]) -> int:
    """How many layers the official state dict's decoder has."""
    found = (re.match(r"transformer\.decoder\.layers\.(\d+)\.", key) for key in state)
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def _shared_heads(state: Mapping[str, Any]) -> dict[str, str]:
    """One pair of heads is listed once for each layer."""
    return {
        re.sub(r"_embed\.0\.", f"_embed.{layer}.", key): key
        for key in state
        if re.match(r"(class|bbox)_embed\.0\.", key)
        for layer in range(1, decoder_layers(state))
    }


def _decoder_heads(state: Mapping[str, Any]) -> dict[str, str]:
    """With refinement the decoder lists the box heads too, with two stages also the class heads."""
    two_stage = "transformer.enc_output.weight" in state
    kinds = "bbox|class" if two_stage else "bbox"
    return {f"transformer.decoder.{k}": k for k in state if re.match(rf"({kinds})_embed\.", k)}


COMMON = {"tensors": (LEVEL_EMBED,), "fusions": FUSIONS, "drops": (COUNTERS, PROFILER)}

TABLES = (
    Table(
        "deformable_detr",
        "official Deformable DETR",
        (
            *_modules(),
            rename("class_embed.0", "class_embed"),
            rename("bbox_embed.0.layers.{n}", "bbox_embed/layer_{n}"),
        ),
        aliases=((r"(class|bbox)_embed\.[1-9]\d*\.(.*)", r"\1_embed.0.\2"),),
        repeats=_shared_heads,
        **COMMON,
    ),
    Table(
        "deformable_detr.refine",
        "official Deformable DETR with refinement",
        (
            *_modules(),
            rename("class_embed.{i}", "class_embed_{i}"),
            rename("bbox_embed.{i}.layers.{n}", "bbox_embed_{i}/layer_{n}"),
        ),
        aliases=((r"transformer\.decoder\.((class|bbox)_embed\..*)", r"\1"),),
        repeats=_decoder_heads,
        **COMMON,
    ),
)

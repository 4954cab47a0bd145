"""DAB-DETR and DN-DETR, dense and deformable: the official names."""

import re
from collections.abc import Mapping
from typing import Any

from jaxseg_convert_torch.deformable_tables import (
    FUSIONS,
    LEVEL_EMBED,
    PROFILER,
    packed_self_attention,
    transformer_modules,
)
from jaxseg_convert_torch.resnet_tables import COUNTERS, resnet_modules
from jaxseg_convert_torch.table import Rename, Table, rename

CONDITIONAL = "{p:[sc]a_[qk](content|pos)|[sc]a_v|ca_qpos_sine}_proj"


def _dense_layers(stack: str) -> tuple[Rename, ...]:
    """What the layers of both dense stacks have."""
    theirs, ours = f"transformer.{stack}.layers.{{i}}.", f"{stack}/layer_{{i}}/"
    return (
        *(rename(theirs + name, ours + name) for name in ("linear{n}", "norm{n}", "activation")),
        rename(f"transformer.{stack}.query_scale.layers.{{n}}", f"{stack}/query_scale/layer_{{n}}"),
    )


def _dense_decoder() -> tuple[Rename, ...]:
    """Decoder, queries and heads."""
    decoder, layer = "transformer.decoder.", "decoder/layer_{i}/"
    return (
        *_dense_layers("decoder"),
        rename(f"{decoder}layers.{{i}}.{CONDITIONAL}", f"{layer}{CONDITIONAL}"),
        rename(decoder + "layers.{i}.self_attn.out_proj", layer + "self_attn_out_proj"),
        rename(
            decoder + "{p:ref_point|ref_anchor}_head.layers.{n}",
            "decoder/{p:ref_point|ref_anchor}_head/layer_{n}",
        ),
        rename(decoder + "norm", "decoder/norm"),
        rename("refpoint_embed"),
        rename("transformer.patterns", "patterns"),
        rename("label_enc", "labels/label_enc"),
        rename("class_embed"),
        rename("bbox_embed.layers.{n}", "bbox_embed/layer_{n}"),
    )


def _dense_modules() -> tuple[Rename, ...]:
    return (
        *resnet_modules("backbone.0.body.", "backbone/"),
        *_dense_layers("encoder"),
        rename(
            "transformer.encoder.layers.{i}.self_attn.{p:[qkv]|out}_proj",
            "encoder/layer_{i}/self_attn/{p:[qkv]|out}_proj",
        ),
        *_dense_decoder(),
        rename(
            "transformer.decoder.layers.{i}.cross_attn.out_proj",
            "decoder/layer_{i}/cross_attn_out_proj",
        ),
        rename("input_proj"),
    )


def _encoder_only_modules() -> tuple[Rename, ...]:
    decoder, layer = "transformer.decoder.layers.{i}.", "decoder/layer_{i}/"
    return (
        *resnet_modules("backbone.0.body.", "backbone/"),
        *_dense_decoder(),
        rename(decoder + "ca_out_v_proj", layer + "cross_attn_out_proj"),
        rename(decoder + "lvl_attn", layer + "lvl_attn"),
        *transformer_modules(),
    )


def _deformable_modules() -> tuple[Rename, ...]:
    return (
        *resnet_modules("backbone.0.body.", "backbone/"),
        *transformer_modules(),
        rename(
            "transformer.decoder.{p:query_scale|ref_point_head}.layers.{n}",
            "decoder/query_position/{p:query_scale|ref_point_head}/layer_{n}",
        ),
        rename("tgt_embed"),
        rename("refpoint_embed"),
        rename("patterns_embed"),
        rename("label_enc", "labels/label_enc"),
        rename("class_embed.{i}", "class_embed_{i}"),
        rename("bbox_embed.{i}.layers.{n}", "bbox_embed_{i}/layer_{n}"),
    )


def _decoder_boxes(state: Mapping[str, Any]) -> dict[str, str]:
    """The decoder lists the box heads too."""
    return {f"transformer.decoder.{key}": key for key in state if re.match(r"bbox_embed\.", key)}


ALIASES = ((r"transformer\.decoder\.(bbox_embed\..*)", r"\1"),)

TABLES = (
    Table(
        "dab_detr",
        "official DAB-DETR or DN-DETR",
        _dense_modules(),
        fusions=(packed_self_attention("encoder"),),
        drops=(COUNTERS, PROFILER),
        aliases=ALIASES,
        repeats=_decoder_boxes,
    ),
    Table(
        "dab_detr.encoder_only",
        "official DN-Deformable-DETR (deformable encoder only)",
        _encoder_only_modules(),
        tensors=(LEVEL_EMBED,),
        drops=(COUNTERS, PROFILER),
        aliases=ALIASES,
        repeats=_decoder_boxes,
    ),
    Table(
        "dab_deformable_detr",
        "official DAB-Deformable-DETR or DN-DAB-Deformable-DETR",
        _deformable_modules(),
        tensors=(LEVEL_EMBED,),
        fusions=FUSIONS,
        drops=(COUNTERS, PROFILER),
        aliases=ALIASES,
        repeats=_decoder_boxes,
    ),
)

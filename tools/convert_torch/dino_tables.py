"""DINO: the official names."""

import re
from collections.abc import Mapping
from typing import Any

from jaxseg_convert_torch.deformable_tables import (
    FUSIONS,
    LEVEL_EMBED,
    PROFILER,
    decoder_layers,
    transformer_modules,
)
from jaxseg_convert_torch.resnet_tables import COUNTERS, resnet_modules
from jaxseg_convert_torch.swin_tables import (
    BIAS_LAYOUT,
    swin_buffer,
    swin_fusion,
    swin_modules,
    swin_norms,
    swin_tensors,
)
from jaxseg_convert_torch.table import Rename, Table, rename


def _modules() -> tuple[Rename, ...]:
    return (
        *resnet_modules("backbone.0.body.", "backbone/"),
        *swin_modules("backbone.0.", "backbone/"),
        *swin_norms("backbone.0.", "backbone/"),
        *transformer_modules(),
        rename("transformer.decoder.norm", "decoder/norm"),
        rename(
            "transformer.decoder.ref_point_head.layers.{n}",
            "decoder/query_position/ref_point_head/layer_{n}",
        ),
        rename("transformer.enc_out_class_embed", "enc_out_class_embed"),
        rename("transformer.enc_out_bbox_embed.layers.{n}", "enc_out_bbox_embed/layer_{n}"),
        rename("transformer.tgt_embed", "tgt_embed"),
        rename("transformer.two_stage_wh_embedding", "two_stage_wh_embedding"),
        rename("transformer.refpoint_embed", "refpoint_embed"),
        rename("label_enc"),
    )


def _shared_heads(state: Mapping[str, Any]) -> dict[str, str]:
    """One pair of heads is listed for each layer, and all of them again under the decoder."""
    heads = [key for key in state if re.match(r"(class|bbox)_embed\.0\.", key)]
    repeats = {}
    for key in heads:
        for layer in range(decoder_layers(state)):
            name = re.sub(r"_embed\.0\.", f"_embed.{layer}.", key)
            repeats |= {name: key} if layer else {}
            repeats[f"transformer.decoder.{name}"] = key
    return repeats


def _own_heads(state: Mapping[str, Any]) -> dict[str, str]:
    """Each layer's heads are listed again under the decoder."""
    return {
        f"transformer.decoder.{key}": key for key in state if re.match(r"(class|bbox)_embed\.", key)
    }


COMMON = {
    "tensors": (LEVEL_EMBED, *swin_tensors("backbone.0.", "backbone/")),
    "fusions": (*FUSIONS, swin_fusion("backbone.0.")),
    "drops": (COUNTERS, PROFILER),
    "buffers": (swin_buffer("backbone.0."),),
    "layouts": (BIAS_LAYOUT,),
}

TABLES = (
    Table(
        "dino",
        "official DINO",
        (
            *_modules(),
            rename("class_embed.0", "class_embed"),
            rename("bbox_embed.0.layers.{n}", "bbox_embed/layer_{n}"),
        ),
        aliases=((r"(?:transformer\.decoder\.)?(class|bbox)_embed\.\d+\.(.*)", r"\1_embed.0.\2"),),
        repeats=_shared_heads,
        **COMMON,
    ),
    Table(
        "dino.unshared",
        "official DINO with heads of each layer's own",
        (
            *_modules(),
            rename("class_embed.{i}", "class_embed_{i}"),
            rename("bbox_embed.{i}.layers.{n}", "bbox_embed_{i}/layer_{n}"),
        ),
        aliases=((r"transformer\.decoder\.((class|bbox)_embed\..*)", r"\1"),),
        repeats=_own_heads,
        **COMMON,
    ),
)

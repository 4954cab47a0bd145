"""Deformable DETR and DAB-DETR: Hugging Face's names.

Releases differ in which of a head's names they save: some the model's, some the decoder's, and
transformers 5 none for a class head that is the first layer's again.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from jaxseg_convert_torch.deformable_tables import SAMPLING
from jaxseg_convert_torch.detr_tables import BODY, PROJECTION, SPELLINGS
from jaxseg_convert_torch.resnet_tables import (
    COUNTERS,
    huggingface_resnet_modules,
    resnet_modules,
)
from jaxseg_convert_torch.table import Rename, Table, rename

ENCODER_NORMS = {1: "self_attn_layer_norm", 2: "final_layer_norm"}
# The official decoder numbers its norms in another order than it uses them.
DECODER_NORMS = {1: "encoder_attn_layer_norm", 2: "self_attn_layer_norm", 3: "final_layer_norm"}
# Ours, with "sa" or "ca" before it, and theirs, with "self_attn" or "cross_attn".
CONDITIONAL = {
    "qcontent": "query_content",
    "qpos": "query_pos",
    "qpos_sine": "query_pos_sine",
    "kcontent": "key_content",
    "kpos": "key_pos",
    "v": "value",
}


def _deformable_modules() -> tuple[Rename, ...]:
    encoder, decoder = "model.encoder.layers.{i}.", "model.decoder.layers.{i}."
    layers = []
    for stack, path, norms in (
        (encoder, "encoder/layer_{i}/", ENCODER_NORMS),
        (decoder, "decoder/layer_{i}/", DECODER_NORMS),
    ):
        layers.append(rename(f"{stack}fc{{n}}", f"{path}linear{{n}}"))
        layers += [rename(stack + name, f"{path}norm{n}") for n, name in norms.items()]
    proposals, queries = "{p:enc_output|enc_output_norm}", "{p:pos_trans|pos_trans_norm}"
    return (
        *layers,
        rename(f"{encoder}self_attn.{SAMPLING}", f"encoder/layer_{{i}}/self_attn/{SAMPLING}"),
        rename(f"{decoder}encoder_attn.{SAMPLING}", f"decoder/layer_{{i}}/cross_attn/{SAMPLING}"),
        rename(f"{decoder}self_attn.{PROJECTION}", f"decoder/layer_{{i}}/self_attn/{PROJECTION}"),
        rename("model.input_proj.{i}.0", "neck/conv_{i}"),
        rename("model.input_proj.{i}.1", "neck/norm_{i}"),
        rename("model.query_position_embeddings", "query_embed"),
        rename("model.reference_points", "reference_points"),
        rename(f"model.{proposals}", f"proposals/{proposals}"),
        rename(f"model.{queries}", f"queries/{queries}"),
    )


def _dab_modules() -> tuple[Rename, ...]:
    encoder, decoder = "model.encoder.layers.{i}.", "model.decoder.layers.{i}."
    layer = "decoder/layer_{i}/"
    attention = []
    for short, part, n in (("sa", "self_attn", 1), ("ca", "cross_attn", 2)):
        theirs = f"{decoder}{part}.{part}"
        attention += [
            rename(f"{theirs}_{name}_proj", f"{layer}{short}_{ours}_proj")
            for ours, name in CONDITIONAL.items()
        ]
        attention.append(rename(f"{theirs}.output_proj", f"{layer}{part}_out_proj"))
        attention.append(rename(f"{theirs}_layer_norm", f"{layer}norm{n}"))
    heads = "{p:query_scale|ref_point_head|ref_anchor_head}"
    return (
        *attention,
        rename(f"{decoder}mlp.fc{{n}}", f"{layer}linear{{n}}"),
        rename(f"{decoder}mlp.activation_fn", f"{layer}activation"),
        rename(f"{decoder}mlp.final_layer_norm", f"{layer}norm3"),
        rename(f"{encoder}self_attn.{PROJECTION}", f"encoder/layer_{{i}}/self_attn/{PROJECTION}"),
        rename(f"{encoder}fc{{n}}", "encoder/layer_{i}/linear{n}"),
        rename(f"{encoder}activation_fn", "encoder/layer_{i}/activation"),
        *(
            rename(encoder + name, f"encoder/layer_{{i}}/norm{n}")
            for n, name in ENCODER_NORMS.items()
        ),
        rename("model.encoder.query_scale.layers.{n}", "encoder/query_scale/layer_{n}"),
        rename(f"model.decoder.{heads}.layers.{{n}}", f"decoder/{heads}/layer_{{n}}"),
        rename("model.decoder.layernorm", "decoder/norm"),
        rename("model.input_projection", "input_proj"),
        rename("model.query_refpoint_embeddings", "refpoint_embed"),
        rename("model.patterns", "patterns"),
        rename("class_embed"),
        rename("bbox_predictor.layers.{n}", "bbox_embed/layer_{n}"),
    )


def _decoder_heads(kinds: str) -> Callable[[Mapping[str, Any]], dict[str, str]]:
    """The heads that the decoder lists too."""
    return lambda state: {
        f"model.decoder.{key}": key for key in state if re.match(rf"({kinds})_embed\.", key)
    }


def _decoder_boxes(state: Mapping[str, Any]) -> dict[str, str]:
    own = "bbox_predictor."
    return {k.replace(own, "model.decoder.bbox_embed."): k for k in state if k.startswith(own)}


EACH = (
    rename("class_embed.{i}", "class_embed_{i}"),
    rename("bbox_embed.{i}.layers.{n}", "bbox_embed_{i}/layer_{n}"),
)
# Suffix of the table → what the title adds, and the heads.
HEADS: dict[str, tuple[str, tuple[Rename, ...], dict[str, Any]]] = {
    "": (
        "",
        (
            rename("class_embed.0", "class_embed"),
            rename("bbox_embed.0.layers.{n}", "bbox_embed/layer_{n}"),
        ),
        {"aliases": ((r"(class|bbox)_embed\.[1-9]\d*\.(.*)", r"\1_embed.0.\2"),)},
    ),
    ".refine": (
        " and refinement",
        EACH,
        {
            "aliases": ((r"model\.decoder\.(bbox_embed\..*)", r"\1"),),
            "lone_aliases": True,
            "shared": ((r"class_embed\.[1-9]\d*\.(.*)", r"class_embed.0.\1"),),
            "repeats": _decoder_heads("bbox"),
        },
    ),
    ".two_stage": (
        " and two stages",
        EACH,
        {
            "aliases": ((r"model\.decoder\.((class|bbox)_embed\..*)", r"\1"),),
            "lone_aliases": True,
            "repeats": _decoder_heads("bbox|class"),
        },
    ),
}
BACKBONES = (
    ("", "timm's", resnet_modules),
    ("_resnet", "its own", huggingface_resnet_modules),
)

TABLES = (
    *(
        Table(
            f"deformable_detr.huggingface{own}{suffix}",
            f"Hugging Face Deformable DETR with {whose} ResNet{more}",
            (*resnet(BODY, "backbone/"), *_deformable_modules(), *modules),
            tensors=(rename("model.level_embed", "level_embed"),),
            drops=(COUNTERS,),
            spellings=SPELLINGS,
            **heads,
        )
        for suffix, (more, modules, heads) in HEADS.items()
        for own, whose, resnet in BACKBONES
    ),
    *(
        Table(
            f"dab_detr.huggingface{own}",
            f"Hugging Face DAB-DETR with {whose} ResNet",
            # Unlike the others it keeps timm's model in its wrapper.
            (*resnet(BODY + ("" if own else "_backbone."), "backbone/"), *_dab_modules()),
            drops=(COUNTERS,),
            aliases=((r"model\.decoder\.bbox_embed\.(.*)", r"bbox_predictor.\1"),),
            lone_aliases=True,
            repeats=_decoder_boxes,
        )
        for own, whose, resnet in BACKBONES
    ),
)

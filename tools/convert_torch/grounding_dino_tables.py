"""Grounding DINO: the official names and Hugging Face's."""

import re
from collections.abc import Mapping
from typing import Any

from jaxseg_convert_torch.bert_tables import BERT_DROPS, bert_modules
from jaxseg_convert_torch.deformable_tables import (
    FUSIONS,
    LEVEL_EMBED,
    SAMPLING,
    decoder_layers,
    transformer_modules,
)
from jaxseg_convert_torch.resnet_tables import COUNTERS, resnet_modules
from jaxseg_convert_torch.swin_tables import (
    BIAS_LAYOUT,
    HUGGINGFACE_SPELLINGS,
    huggingface_swin_buffer,
    huggingface_swin_modules,
    huggingface_swin_norms,
    huggingface_swin_tensors,
    swin_buffer,
    swin_fusion,
    swin_modules,
    swin_norms,
    swin_tensors,
)
from jaxseg_convert_torch.table import Fusion, Rename, Table, rename
from jaxseg_convert_torch.templates import Template

BACKBONE = "backbone.0."
ENCODER, DECODER = "transformer.encoder.", "transformer.decoder.layers.{i}."
FUSED = "{p:(?:values_)?[vl]_proj|out_[vl]_proj}"
PROJECTION = "{p:[qkv]|out}_proj"
# The denoising label book, which no released code reads.
LABEL_BOOK = r"label_enc\.weight"

HF_BACKBONE = "model.backbone.conv_encoder.model."
# The norm before a classifier, which newer releases of transformers save too.
FINAL_NORM = rf"{re.escape(HF_BACKBONE)}(swin\.)?layernorm\.(weight|bias)"
HF_ENCODER, HF_DECODER = "model.encoder.layers.{i}.", "model.decoder.layers.{i}."
# Ours and theirs, whose attention layers are of several kinds.
QUERY_KEY_VALUE = (("q", "query"), ("k", "key"), ("v", "value"), ("out", "out_proj"))
ENCODER_NORMS = {1: "self_attn_layer_norm", 2: "final_layer_norm"}
DECODER_NORMS = {1: "encoder_attn_layer_norm", 2: "self_attn_layer_norm", 3: "final_layer_norm"}
SIDES = (("v", "vision"), ("l", "text"))


def _official_modules() -> tuple[Rename, ...]:
    text, fusion = f"{ENCODER}text_layers.{{i}}.", f"{ENCODER}fusion_layers.{{i}}."
    return (
        *swin_modules(BACKBONE, "backbone/"),
        *swin_norms(BACKBONE, "backbone/"),
        *resnet_modules(f"{BACKBONE}body.", "backbone/"),
        *bert_modules("bert.", "bert/"),
        *transformer_modules(),
        rename("feat_map"),
        rename(f"{text}self_attn.{PROJECTION}", f"encoder/text_{{i}}/self_attn/{PROJECTION}"),
        rename(f"{text}linear{{n}}", "encoder/text_{i}/linear{n}"),
        rename(f"{text}norm{{n}}", "encoder/text_{i}/norm{n}"),
        rename(f"{fusion}attn.{FUSED}", f"encoder/fusion_{{i}}/attn/{FUSED}"),
        rename(f"{fusion}layer_norm_{{p:[vl]}}", "encoder/fusion_{i}/layer_norm_{p:[vl]}"),
        rename(f"{DECODER}ca_text.{PROJECTION}", f"decoder/layer_{{i}}/ca_text/{PROJECTION}"),
        rename(f"{DECODER}catext_norm", "decoder/layer_{i}/catext_norm"),
        rename("transformer.decoder.norm", "decoder/norm"),
        rename(
            "transformer.decoder.ref_point_head.layers.{n}",
            "decoder/query_position/ref_point_head/layer_{n}",
        ),
        rename("transformer.enc_out_bbox_embed.layers.{n}", "enc_out_bbox_embed/layer_{n}"),
        rename("transformer.tgt_embed", "tgt_embed"),
        rename("transformer.refpoint_embed", "refpoint_embed"),
        rename("bbox_embed.0.layers.{n}", "bbox_embed/layer_{n}"),
    )


def _packed(module: str) -> Fusion:
    """torch's MultiheadAttention keeps q, k and v in one tensor, in this order."""
    return Fusion(
        Template(f"{module}.in_proj_{{leaf:weight|bias}}"),
        Template(f"{module}.{{part:[qkv]}}_proj.{{leaf:weight|bias}}"),
        ("q", "k", "v"),
    )


def _repeats(prefix: str) -> Any:
    """One box head is listed for each layer, and all of them again under the decoder."""

    def repeats(state: Mapping[str, Any]) -> dict[str, str]:
        count = max(decoder_layers(state), _huggingface_layers(state))
        found = {}
        for key in [key for key in state if key.startswith("bbox_embed.0.")]:
            for layer in range(count):
                name = key.replace("bbox_embed.0.", f"bbox_embed.{layer}.")
                found |= {name: key} if layer else {}
                found[prefix + name] = key
        return found

    return repeats


def _huggingface_layers(state: Mapping[str, Any]) -> int:
    found = (re.match(r"model\.decoder\.layers\.(\d+)\.", key) for key in state)
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def _huggingface_modules() -> tuple[Rename, ...]:
    image = f"{HF_ENCODER}deformable_layer."
    text = f"{HF_ENCODER}text_enhancer_layer."
    fusion = f"{HF_ENCODER}fusion_layer."
    attention = []
    for stack, ours in (
        (f"{text}self_attn.", "encoder/text_{i}/self_attn/"),
        (f"{HF_DECODER}self_attn.", "decoder/layer_{i}/self_attn/"),
        (f"{HF_DECODER}encoder_attn_text.", "decoder/layer_{i}/ca_text/"),
    ):
        attention += [rename(stack + theirs, f"{ours}{p}_proj") for p, theirs in QUERY_KEY_VALUE]
    fused = []
    for short, long in SIDES:
        fused += [
            rename(f"{fusion}layer_norm_{long}", f"encoder/fusion_{{i}}/layer_norm_{short}"),
            *(
                rename(
                    f"{fusion}attn.{part}{long}_proj",
                    f"encoder/fusion_{{i}}/attn/{part}{short}_proj",
                )
                for part in ("", "values_", "out_")
            ),
        ]
    return (
        *huggingface_swin_modules(HF_BACKBONE, "backbone/"),
        *huggingface_swin_norms(HF_BACKBONE, "backbone/"),
        *bert_modules("model.text_backbone.", "bert/"),
        rename("model.text_projection", "feat_map"),
        rename("model.input_proj_vision.{i}.0", "neck/conv_{i}"),
        rename("model.input_proj_vision.{i}.1", "neck/norm_{i}"),
        *attention,
        *fused,
        rename(f"{text}fc{{n}}", "encoder/text_{i}/linear{n}"),
        rename(f"{text}layer_norm_before", "encoder/text_{i}/norm1"),
        rename(f"{text}layer_norm_after", "encoder/text_{i}/norm2"),
        rename(f"{image}self_attn.{SAMPLING}", f"encoder/layer_{{i}}/self_attn/{SAMPLING}"),
        rename(f"{image}fc{{n}}", "encoder/layer_{i}/linear{n}"),
        *(
            rename(image + name, f"encoder/layer_{{i}}/norm{n}")
            for n, name in ENCODER_NORMS.items()
        ),
        rename(
            f"{HF_DECODER}encoder_attn.{SAMPLING}", f"decoder/layer_{{i}}/cross_attn/{SAMPLING}"
        ),
        rename(f"{HF_DECODER}encoder_attn_text_layer_norm", "decoder/layer_{i}/catext_norm"),
        rename(f"{HF_DECODER}fc{{n}}", "decoder/layer_{i}/linear{n}"),
        *(
            rename(HF_DECODER + name, f"decoder/layer_{{i}}/norm{n}")
            for n, name in DECODER_NORMS.items()
        ),
        rename("model.decoder.layer_norm", "decoder/norm"),
        rename(
            "model.decoder.reference_points_head.layers.{n}",
            "decoder/query_position/ref_point_head/layer_{n}",
        ),
        rename("model.{p:enc_output|enc_output_norm}", "proposals/{p:enc_output|enc_output_norm}"),
        rename("model.encoder_output_bbox_embed.layers.{n}", "enc_out_bbox_embed/layer_{n}"),
        rename("model.query_position_embeddings", "tgt_embed"),
        rename("model.reference_points", "refpoint_embed"),
        rename("bbox_embed.0.layers.{n}", "bbox_embed/layer_{n}"),
    )


TABLES = (
    Table(
        "grounding_dino",
        "official Grounding DINO",
        _official_modules(),
        tensors=(
            LEVEL_EMBED,
            *swin_tensors(BACKBONE, "backbone/"),
            rename(
                f"{ENCODER}fusion_layers.{{i}}.gamma_{{p:[vl]}}",
                "encoder/fusion_{i}/gamma_{p:[vl]}",
            ),
        ),
        fusions=(
            *FUSIONS,
            swin_fusion(BACKBONE),
            _packed(f"{ENCODER}text_layers.{{i}}.self_attn"),
            _packed(f"{DECODER}ca_text"),
        ),
        drops=(COUNTERS, LABEL_BOOK, *BERT_DROPS),
        buffers=(swin_buffer(BACKBONE),),
        layouts=(BIAS_LAYOUT,),
        aliases=((r"(?:transformer\.decoder\.)?bbox_embed\.\d+\.(.*)", r"bbox_embed.0.\1"),),
        repeats=_repeats("transformer.decoder."),
    ),
    Table(
        "grounding_dino.huggingface",
        "Hugging Face Grounding DINO",
        _huggingface_modules(),
        tensors=(
            rename("model.level_embed", "level_embed"),
            *huggingface_swin_tensors(HF_BACKBONE, "backbone/"),
            *(
                rename(f"{HF_ENCODER}fusion_layer.{long}_param", f"encoder/fusion_{{i}}/gamma_{p}")
                for p, long in SIDES
            ),
        ),
        drops=(*BERT_DROPS, FINAL_NORM),
        buffers=(huggingface_swin_buffer(HF_BACKBONE),),
        layouts=(BIAS_LAYOUT,),
        spellings=HUGGINGFACE_SPELLINGS,
        aliases=((r"(?:model\.decoder\.)?bbox_embed\.\d+\.(.*)", r"bbox_embed.0.\1"),),
        lone_aliases=True,
        repeats=_repeats("model.decoder."),
    ),
)

"""Hugging Face's config.json of Grounding DINO, read and written."""

from collections.abc import Mapping
from typing import Any

from jaxseg.backbones.swin import WINDOWS, Swin
from jaxseg.errors import UserError
from jaxseg.models.detr.deformable_decoder import DeformableDecoderLayer
from jaxseg.models.grounding_dino import GroundingDino
from jaxseg.models.grounding_dino.fusion import Apart
from jaxseg.native import build_model
from jaxseg.train.describe import describe
from jaxseg_convert_torch.huggingface_fields import (
    BOOKKEEPING,
    FIXED,
    Described,
    Fields,
    require,
    require_count,
)

ARCHITECTURE = "GroundingDinoForObjectDetection"
EPSILON = 1e-5  # of transformers' inverse sigmoid; the original has 1e-3
GROUNDING = Fields(
    architectures=(ARCHITECTURE,),
    renamed={
        "d_model": ("width", 256),
        "encoder_attention_heads": ("num_heads", 8),
        "encoder_ffn_dim": ("feedforward", 2048),
        "encoder_layers": ("encoder_layers", 6),
        "decoder_layers": ("decoder_layers", 6),
        "num_queries": ("num_queries", 900),
        "num_feature_levels": ("num_levels", 4),
        "encoder_n_points": ("num_points", 4),
        "fusion_droppath": ("fusion_drop_path", 0.1),
    },
    twins={
        "decoder_attention_heads": "encoder_attention_heads",
        "decoder_ffn_dim": "encoder_ffn_dim",
        "decoder_n_points": "encoder_n_points",
    },
    fixed=FIXED
    | {
        "activation_function": ("relu",),
        "position_embedding_type": ("sine",),
        "positional_embedding_temperature": (20,),
        "two_stage": (True,),
        "two_stage_bbox_embed_share": (False,),
        "decoder_bbox_embed_share": (True,),
        "embedding_init_target": (True,),
        "query_dim": (4,),
        "layer_norm_eps": (1e-5,),
        "max_text_len": (256,),
    },
    counts=(
        *("d_model", "encoder_attention_heads", "encoder_ffn_dim", "num_queries"),
        *("num_feature_levels", "encoder_n_points"),
    ),
    # Its dropout acts in training, where the original's is 0, and so is ours.
    others=(
        *("dropout", "text_config", "text_enhancer_dropout", "fusion_dropout", "focal_alpha"),
        *("disable_custom_kernels",),
    ),
)
# Parts of a config: field → builder argument or row of a Swin, and what transformers assumes.
BERT = {
    "num_hidden_layers": ("bert_layers", 12),
    "hidden_size": ("bert_width", 768),
    "num_attention_heads": ("bert_heads", 12),
    "intermediate_size": ("bert_feedforward", 3072),
    "vocab_size": ("vocabulary", 30522),
}
BERT_FIXED = {
    "model_type": ("bert",),
    "hidden_act": ("gelu",),
    "layer_norm_eps": (1e-12,),
    "max_position_embeddings": (512,),
    "type_vocab_size": (2,),
    "position_embedding_type": ("absolute",),
}
SWIN = {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24]}
SWIN_FIXED = {
    "model_type": ("swin",),
    "num_channels": (3,),
    "patch_size": (4,),
    "mlp_ratio": (4.0,),
    "qkv_bias": (True,),
    "hidden_act": ("gelu",),
    "use_absolute_embeddings": (False,),
    "layer_norm_eps": (1e-5,),
}
# Fields of either part that training or bookkeeping reads.
OTHERS = {
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range", "image_size"),
    *("encoder_stride", "num_layers", "stage_names", "out_features", "out_indices", "hidden_size"),
    *("pad_token_id", "bos_token_id", "eos_token_id", "classifier_dropout", "is_decoder"),
    *("add_cross_attention", "window_size", "drop_path_rate", "tie_word_embeddings"),
}


def read_grounding(config: Mapping[str, Any]) -> Described:
    """A config without nulls; see `huggingface.read_config`."""
    kwargs = GROUNDING.read(config)
    heads, feedforward = kwargs["num_heads"], kwargs["feedforward"]
    # There the layers of words and of both have half of the detector's sizes.
    kwargs |= {"text_heads": heads // 2, "fusion_heads": heads // 2}
    kwargs |= {"text_feedforward": feedforward // 2, "fusion_width": feedforward // 2}
    bert, swin = (_part(config, name, allowed) for name, allowed in PARTS.items())
    for field, (ours, assumed) in BERT.items():
        require_count(f"text_config.{field}", bert.get(field, assumed))
        kwargs[ours] = bert.get(field, assumed)
    kwargs["bert_dropout"] = bert.get("hidden_dropout_prob", 0.1)
    kwargs |= _read_swin(swin, kwargs["num_levels"])
    kwargs |= {"bert_pooler": False, "epsilon": EPSILON}
    name, kwargs = describe(build_model("grounding_dino.swin_t", kwargs, "config.json"))
    unknown = {*bert, *swin} - {*BERT, *BERT_FIXED, *SWIN, *SWIN_FIXED, *OTHERS, *BOOKKEEPING}
    notes = GROUNDING.note_unknown(config)
    if unknown:
        what = "that these fields of its parts do not change the model"
        notes.append(f"{what}: {', '.join(sorted(unknown))}")
    return Described(name, kwargs, None, notes)


PARTS = {"text_config": BERT_FIXED, "backbone_config": SWIN_FIXED}


def _part(config, name: str, allowed: Mapping[str, tuple]) -> Mapping[str, Any]:
    """A part of a config without nulls.

    Raises:
      UserError: a value that cannot be reproduced, by its field.
    """
    part = config.get(name, {})
    if not isinstance(part, Mapping):
        raise UserError(f"config.json: {name} must be an object; got {part!r}")
    part = {field: value for field, value in part.items() if value is not None}
    for field, values in allowed.items():
        require(f"{name}.{field}", part.get(field, values[0]), values)
    return part


def _read_swin(part: Mapping[str, Any], num_levels: int) -> dict[str, Any]:
    width, depths, heads = (part.get(field, assumed) for field, assumed in SWIN.items())
    require_count("backbone_config.embed_dim", width)
    for field, value in (("depths", depths), ("num_heads", heads)):
        if not isinstance(value, list | tuple) or len(value) != 4:
            raise UserError(f"config.json: backbone_config.{field} must be four; got {value!r}")
    window = part.get("window_size", 7)
    require("backbone_config.window_size", window, WINDOWS.values())
    wanted = [1, 2, 3, 4] if num_levels > 4 else [2, 3, 4][-num_levels:]
    names = [f"stage{i}" for i in wanted]
    require("backbone_config.out_features", part.get("out_features", names), [names])
    require("backbone_config.out_indices", list(part.get("out_indices", wanted)), [wanted])
    return {
        "swin": (width, tuple(depths), tuple(heads)),
        "pretraining": next(side for side, known in WINDOWS.items() if known == window),
        "drop_path": part.get("drop_path_rate", 0.1),
    }


def write_grounding_config(model: GroundingDino) -> dict[str, Any]:
    """The `config.json` with which transformers builds a model of ours.

    Raises:
      UserError: transformers' model has no such part.
    """
    encoder, bert, swin = model.encoder, model.bert, model.backbone
    _refuse_parts(model)
    levels = model.neck.num_levels
    stages = [1, 2, 3, 4] if levels > 4 else [2, 3, 4][-levels:]
    values = {
        "width": model.width,
        "num_heads": encoder.num_heads,
        "feedforward": encoder.feedforward,
        "encoder_layers": encoder.num_layers,
        "decoder_layers": model.decoder.num_layers,
        "num_queries": model.num_queries,
        "num_levels": levels,
        "num_points": encoder.num_points,
        "fusion_drop_path": encoder.drop_path,
        "bert_layers": bert.num_layers,
        "bert_width": bert.width,
        "bert_heads": bert.num_heads,
        "bert_feedforward": bert.mlp_width,
        "vocabulary": bert.vocabulary,
    }
    fields = {theirs: values[ours] for theirs, (ours, _) in GROUNDING.renamed.items()}
    return {
        "architectures": [ARCHITECTURE],
        "model_type": "grounding-dino",
        **fields,
        **{twin: fields[other] for twin, other in GROUNDING.twins.items()},
        "dropout": encoder.dropout,
        **_first(GROUNDING.fixed, ("activation_function", "layer_norm_eps", "max_text_len")),
        "text_config": _first(BERT_FIXED, BERT_FIXED)
        | {theirs: values[ours] for theirs, (ours, _) in BERT.items()}
        | {"hidden_dropout_prob": bert.dropout, "attention_probs_dropout_prob": bert.dropout},
        "backbone_config": _first(SWIN_FIXED, SWIN_FIXED)
        | {
            "embed_dim": swin.width,
            "depths": list(swin.depths),
            "num_heads": list(swin.num_heads),
            "window_size": swin.window,
            "drop_path_rate": swin.drop_path,
            "out_features": [f"stage{i}" for i in stages],
            "out_indices": stages,
        },
    }


def _first(table: Mapping[str, tuple], names) -> dict[str, Any]:
    return {name: table[name][0] for name in names}


def _refuse_parts(model: GroundingDino) -> None:
    encoder = model.encoder
    halves = (encoder.num_heads // 2, encoder.feedforward // 2)
    sizes = {(encoder.text_heads, encoder.text_feedforward)}
    sizes |= {(encoder.fusion_heads, encoder.fusion_width)}
    others = {
        f"a backbone of the kind {type(model.backbone).__name__}": type(model.backbone) is not Swin,
        "no fusion": encoder.fusion is Apart,
        "no attention to the words": model.decoder.layer is DeformableDecoderLayer,
        f"selection={model.selection!r}": model.selection != "language",
        f"text_level={model.text_level!r}": model.text_level != "sub_sentence",
        "layers of words and of fusion that are not half as wide as the image's": sizes != {halves},
    }
    if found := [what for what, there in others.items() if there]:
        raise UserError(
            f"transformers' Grounding DINO has no model with {', '.join(found)}; write the "
            "official form instead, or keep it native"
        )

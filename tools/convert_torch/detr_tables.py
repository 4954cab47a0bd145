"""DETR: the official names, and the four spellings of Hugging Face's `DetrForObjectDetection`."""

from jaxseg_convert_torch.resnet_tables import (
    COUNTERS,
    huggingface_resnet_modules,
    resnet_modules,
)
from jaxseg_convert_torch.table import Fusion, Rename, Table, rename
from jaxseg_convert_torch.templates import Template

PROJECTION = "{p:[qkv]|out}_proj"


def _official_modules() -> tuple[Rename, ...]:
    encoder, decoder = "transformer.encoder.layers.{i}.", "transformer.decoder.layers.{i}."
    ours = {encoder: "encoder/layer_{i}/", decoder: "decoder/layer_{i}/"}
    attention = {"self_attn": "self_attn", "multihead_attn": "cross_attn"}
    layers = []
    for stack, path in ours.items():
        for theirs, name in attention.items():
            layers.append(
                rename(
                    f"{stack}{theirs}.{{p:[qkv]|out}}_proj", f"{path}{name}/{{p:[qkv]|out}}_proj"
                )
            )
        layers.append(rename(f"{stack}linear{{n}}", f"{path}linear{{n}}"))
        layers.append(rename(f"{stack}norm{{n}}", f"{path}norm{{n}}"))
    return (
        *resnet_modules("backbone.0.body.", "backbone/"),
        rename("backbone.1.{axis:row|col}_embed", "position/{axis:row|col}_embed"),
        rename("input_proj"),
        rename("query_embed"),
        *layers,
        rename("transformer.{stack:encoder|decoder}.norm", "{stack:encoder|decoder}/norm"),
        rename("class_embed"),
        rename("bbox_embed.layers.{i}", "bbox_embed/layer_{i}"),
    )


def _packed_projections() -> tuple[Fusion, ...]:
    """torch's MultiheadAttention keeps q, k and v in one tensor, in this order."""
    names = ("encoder", "self_attn"), ("decoder", "self_attn"), ("decoder", "multihead_attn")
    return tuple(
        Fusion(
            Template(f"transformer.{stack}.layers.{{i}}.{name}.in_proj_{{leaf:weight|bias}}"),
            Template(
                f"transformer.{stack}.layers.{{i}}.{name}.{{part:[qkv]}}_proj.{{leaf:weight|bias}}"
            ),
            ("q", "k", "v"),
        )
        for stack, name in names
    )


def _huggingface_modules(backbone: tuple[Rename, ...]) -> tuple[Rename, ...]:
    layers = []
    for stack in ("encoder", "decoder"):
        theirs, ours = f"model.{stack}.layers.{{i}}.", f"{stack}/layer_{{i}}/"
        attention = {"self_attn": "self_attn", "encoder_attn": "cross_attn"}
        for name, path in attention.items():
            layers.append(rename(f"{theirs}{name}.{PROJECTION}", f"{ours}{path}/{PROJECTION}"))
        layers.append(rename(f"{theirs}fc{{n}}", f"{ours}linear{{n}}"))
        norms = ["self_attn_layer_norm", "final_layer_norm"]
        if stack == "decoder":
            norms.insert(1, "encoder_attn_layer_norm")
        layers += [rename(theirs + name, f"{ours}norm{n}") for n, name in enumerate(norms, 1)]
    return (
        *backbone,
        rename("model.position_embedding.row_embeddings", "position/row_embed"),
        rename("model.position_embedding.column_embeddings", "position/col_embed"),
        rename("model.input_projection", "input_proj"),
        rename("model.query_position_embeddings", "query_embed"),
        *layers,
        rename("model.decoder.layernorm", "decoder/norm"),
        rename("class_labels_classifier", "class_embed"),
        rename("bbox_predictor.layers.{i}", "bbox_embed/layer_{i}"),
    )


# What transformers 5 calls the same modules in memory: it saves the older names by default and
# these with save_original_format=False. Learned positions it saves and finds only under its own
# name, so that is the table's, and the older one a spelling.
SPELLINGS = (
    (r"^model\.backbone\.model\.", "model.backbone.conv_encoder.model."),
    (r"^model\.backbone\.position_embedding\.", "model.position_embedding."),
    (r"\.o_proj\.", ".out_proj."),
    (r"\.mlp\.(fc\d\.)", r".\1"),
)
BODY = "model.backbone.conv_encoder.model."
# Training scripts that keep model and criterion in one module save its class weights too.
CRITERION = r"criterion\.empty_weight"

TABLES = (
    Table(
        "detr",
        "official DETR",
        _official_modules(),
        fusions=_packed_projections(),
        drops=(COUNTERS, CRITERION),
    ),
    Table(
        "detr.huggingface",
        "Hugging Face DETR with timm's ResNet",
        _huggingface_modules(resnet_modules(BODY, "backbone/")),
        drops=(COUNTERS,),
        spellings=SPELLINGS,
    ),
    Table(
        "detr.huggingface_resnet",
        "Hugging Face DETR with its own ResNet",
        _huggingface_modules(huggingface_resnet_modules(BODY, "backbone/")),
        drops=(COUNTERS,),
        spellings=SPELLINGS,
    ),
)

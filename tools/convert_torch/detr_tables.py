"""DETR, with and without masks: the official names, and Hugging Face's spellings.

With masks the detector's names stand under "detr.", and those of the two parts beside it.
"""

from jaxseg_convert_torch.resnet_tables import (
    COUNTERS,
    huggingface_resnet_modules,
    resnet_modules,
)
from jaxseg_convert_torch.table import Fusion, Rename, Table, rename
from jaxseg_convert_torch.templates import Template

PROJECTION = "{p:[qkv]|out}_proj"


def _official_modules(under: str = "") -> tuple[Rename, ...]:
    transformer = f"{under}transformer."
    encoder, decoder = f"{transformer}encoder.layers.{{i}}.", f"{transformer}decoder.layers.{{i}}."
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
        *resnet_modules(f"{under}backbone.0.body.", "backbone/"),
        rename(f"{under}backbone.1.{{axis:row|col}}_embed", "position/{axis:row|col}_embed"),
        rename(f"{under}input_proj", "input_proj"),
        rename(f"{under}query_embed", "query_embed"),
        *layers,
        rename(f"{transformer}{{stack:encoder|decoder}}.norm", "{stack:encoder|decoder}/norm"),
        rename(f"{under}class_embed", "class_embed"),
        rename(f"{under}bbox_embed.layers.{{i}}", "bbox_embed/layer_{i}"),
    )


MASK_MODULES = (
    rename("bbox_attention.{p:[qk]}_linear", "bbox_attention/{p:[qk]}_linear"),
    rename("mask_head.lay{n}", "mask_head/conv{n}"),
    rename("mask_head.gn{n}", "mask_head/norm{n}"),
    rename("mask_head.adapter{n}", "mask_head/adapter{n}"),
    rename("mask_head.out_lay", "mask_head/out_conv"),
)


def _packed_projections(under: str = "") -> tuple[Fusion, ...]:
    """torch's MultiheadAttention keeps q, k and v in one tensor, in this order."""
    names = ("encoder", "self_attn"), ("decoder", "self_attn"), ("decoder", "multihead_attn")
    fusions = []
    for stack, name in names:
        module = f"{under}transformer.{stack}.layers.{{i}}.{name}."
        fused = Template(f"{module}in_proj_{{leaf:weight|bias}}")
        part = Template(f"{module}{{part:[qkv]}}_proj.{{leaf:weight|bias}}")
        fusions.append(Fusion(fused, part, ("q", "k", "v")))
    return tuple(fusions)


def _huggingface_modules(backbone: tuple[Rename, ...], under: str = "") -> tuple[Rename, ...]:
    layers, model = [], f"{under}model."
    for stack in ("encoder", "decoder"):
        theirs, ours = f"{model}{stack}.layers.{{i}}.", f"{stack}/layer_{{i}}/"
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
        rename(f"{model}position_embedding.row_embeddings", "position/row_embed"),
        rename(f"{model}position_embedding.column_embeddings", "position/col_embed"),
        rename(f"{model}input_projection", "input_proj"),
        rename(f"{model}query_position_embeddings", "query_embed"),
        *layers,
        rename(f"{model}decoder.layernorm", "decoder/norm"),
        rename(f"{under}class_labels_classifier", "class_embed"),
        rename(f"{under}bbox_predictor.layers.{{i}}", "bbox_embed/layer_{i}"),
    )


# What transformers 5 calls the same modules in memory: it saves the older names by default and
# these with save_original_format=False. Learned positions it saves and finds only under its own
# name, so that is the table's, and the older one a spelling.
SPELLINGS = (
    (r"^(detr\.)?model\.backbone\.model\.", r"\1model.backbone.conv_encoder.model."),
    (r"^(detr\.)?model\.backbone\.position_embedding\.", r"\1model.position_embedding."),
    (r"\.o_proj\.", ".out_proj."),
    (r"\.mlp\.(fc\d\.)", r".\1"),
)
MASK_SPELLINGS = (
    (r"^bbox_attention\.([qk])_proj\.", r"bbox_attention.\1_linear."),
    (r"^mask_head\.conv(\d)\.conv\.", r"mask_head.lay\1."),
    (r"^mask_head\.conv(\d)\.norm\.", r"mask_head.gn\1."),
    *(
        (rf"^mask_head\.fpn_stages\.{stage}\.{theirs}\.", f"mask_head.{ours}.")
        for stage in range(3)
        for theirs, ours in (
            ("fpn_adapter", f"adapter{stage + 1}"),
            (r"refine\.conv", f"lay{stage + 3}"),
            (r"refine\.norm", f"gn{stage + 3}"),
        )
    ),
    (r"^mask_head\.output_conv\.", "mask_head.out_lay."),
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
        "detr.segmentation",
        "official DETR with masks",
        (*_official_modules("detr."), *MASK_MODULES),
        fusions=_packed_projections("detr."),
        drops=(COUNTERS, CRITERION),
    ),
    *(
        Table(
            f"detr.huggingface{own}{masks}",
            f"Hugging Face DETR with {whose} ResNet{' and masks' if masks else ''}",
            (*_huggingface_modules(resnet(under + BODY, "backbone/"), under), *modules),
            drops=(COUNTERS,),
            spellings=SPELLINGS + spellings,
        )
        for masks, under, modules, spellings in (
            ("", "", (), ()),
            (".segmentation", "detr.", MASK_MODULES, MASK_SPELLINGS),
        )
        for own, whose, resnet in (
            ("", "timm's", resnet_modules),
            ("_resnet", "its own", huggingface_resnet_modules),
        )
    ),
)

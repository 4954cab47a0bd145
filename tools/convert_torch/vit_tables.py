"""Plain vision transformers: ViTDet's names (detectron2, detrex), MAE's, Hugging Face's VitDet."""

from jaxseg_convert_torch.positions import AXIS, TOKENS_AFTER_CLASS
from jaxseg_convert_torch.table import Fusion, Layout, Rename, Table, rename
from jaxseg_convert_torch.templates import Template

BLOCK = "blocks.{i}."
HUGGINGFACE_BLOCK = "encoder.layer.{i}."
PARTS = "{p:[qkv]}_proj"
WHOLE = "vit.pyramid"
AXES = "rel_pos_{axis:[hw]}"
RELATIVE = r"(.*/)?attn/rel_pos_[hw]"
RELATIVE_LAYOUT = (RELATIVE, AXIS)
POSITION = r"(.*/)?position_embed"
# The class token, the norm before the classifier, the classifier; MAE's own decoder.
CLASSIFIER = r"(cls_token|mask_token|(norm|fc_norm|head)\.(weight|bias)|decoder_.*)"
# What stands in torch's sequence for each factor: our module, and where it is.
PYRAMID = (
    ("simfp_2", "up4", ("up1", "up_norm", None, "up2", 1, 2)),
    ("simfp_3", "up2", ("up1", 1, 2)),
    ("simfp_4", "same", (1, 2)),
    ("simfp_5", "down2", (None, 1, 2)),
)


def vit_modules(official: str = "", path: str = "", mlp: str = "fc") -> tuple[Rename, ...]:
    """Names of the modules under prefixes with their separators (SAM's `mlp` is "lin")."""
    theirs, ours = official + BLOCK, f"{path}block_{{i}}/"
    return (
        rename(f"{official}patch_embed.proj", f"{path}patch_embed"),
        rename(f"{theirs}norm{{n}}", f"{ours}norm{{n}}"),
        rename(f"{theirs}attn.{PARTS}", f"{ours}attn/{PARTS}"),
        rename(f"{theirs}attn.proj", f"{ours}attn/out_proj"),
        rename(f"{theirs}mlp.{mlp}{{n}}", f"{ours}mlp/linear{{n}}"),
    )


def vit_position(official: str = "", path: str = "") -> Rename:
    """The absolute positions."""
    return rename(f"{official}pos_embed", f"{path}position_embed")


def vit_relative(official: str = "", path: str = "") -> Rename:
    """The relative positions of each block."""
    return rename(f"{official}{BLOCK}attn.{AXES}", f"{path}block_{{i}}/attn/{AXES}")


def vit_fusion(official: str = "") -> Fusion:
    """Queries, keys and values lie in one tensor, in this order."""
    return Fusion(
        Template(f"{official}{BLOCK}attn.qkv.{{leaf:weight|bias}}"),
        Template(f"{official}{BLOCK}attn.{{part:[qkv]}}_proj.{{leaf:weight|bias}}"),
        ("q", "k", "v"),
    )


def vit_layouts(position: Layout = TOKENS_AFTER_CLASS) -> tuple[tuple[str, Layout], ...]:
    """Of relative and absolute positions, wherever the transformer lies."""
    return (RELATIVE_LAYOUT, (POSITION, position))


def pyramid_modules(official: str = "", path: str = "") -> tuple[Rename, ...]:
    """The simple feature pyramid's names: a sequence for each factor."""
    modules = []
    for name, level, sequence in PYRAMID:
        for place, ours in enumerate(sequence):
            theirs = f"{official}{name}.{place}"
            if isinstance(ours, str):
                modules.append(rename(theirs, f"{path}{level}/{ours}"))
            elif ours is not None:
                modules.append(rename(theirs, f"{path}{level}/conv{ours}"))
                modules.append(rename(f"{theirs}.norm", f"{path}{level}/norm{ours}"))
    return tuple(modules)


def _huggingface() -> Table:
    theirs, ours = HUGGINGFACE_BLOCK, "block_{i}/"
    return Table(
        "vit.huggingface",
        "Hugging Face VitDet",
        (
            rename("embeddings.projection", "patch_embed"),
            rename(f"{theirs}norm{{n}}", f"{ours}norm{{n}}"),
            rename(f"{theirs}attention.{PARTS}", f"{ours}attn/{PARTS}"),
            rename(f"{theirs}attention.proj", f"{ours}attn/out_proj"),
            rename(f"{theirs}mlp.fc{{n}}", f"{ours}mlp/linear{{n}}"),
        ),
        tensors=(
            rename("embeddings.position_embeddings", "position_embed"),
            rename(f"{theirs}attention.{AXES}", f"{ours}attn/{AXES}"),
        ),
        fusions=(
            Fusion(
                Template(f"{theirs}attention.qkv.{{leaf:weight|bias}}"),
                Template(f"{theirs}attention.{{part:[qkv]}}_proj.{{leaf:weight|bias}}"),
                ("q", "k", "v"),
            ),
        ),
        layouts=vit_layouts(),
    )


TABLES = (
    Table(
        "vit.mae",
        "plain ViT (MAE, DeiT)",
        vit_modules(),
        tensors=(vit_position(),),
        fusions=(vit_fusion(),),
        layouts=vit_layouts(),
        drops=(CLASSIFIER,),
        defaults=((RELATIVE, 0.0),),
    ),
    Table(
        "vit",
        "ViTDet without its pyramid",
        vit_modules(),
        tensors=(vit_position(), vit_relative()),
        fusions=(vit_fusion(),),
        layouts=vit_layouts(),
    ),
    Table(
        WHOLE,
        "ViTDet",
        (*vit_modules("net.", "net/"), *pyramid_modules("", "pyramid/")),
        tensors=(vit_position("net.", "net/"), vit_relative("net.", "net/")),
        fusions=(vit_fusion("net."),),
        layouts=vit_layouts(),
    ),
    _huggingface(),
)

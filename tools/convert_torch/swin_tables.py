"""Swin Transformers: Microsoft's names in classification and detection, timm's, Hugging Face's."""

from collections.abc import Mapping
from typing import Any

from jaxseg_convert_torch.positions import CHANNELS_FIRST, OFFSETS, TOKENS, offsets_index
from jaxseg_convert_torch.table import Buffer, Fusion, Rename, Table, rename
from jaxseg_convert_torch.templates import Template

BLOCK = "layers.{s}.blocks.{b}."
STAGES = range(4)
PARTS = "{p:[qkv]}_proj"
BIAS_TABLE = "relative_position_bias_table"
INDEX = "relative_position_index"
HUGGINGFACE_BLOCK = f"encoder.{BLOCK}"
HUGGINGFACE_PARTS = (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj"))

BIAS_LAYOUT = (rf"(.*/)?attn/{BIAS_TABLE}", OFFSETS)
POSITION = r"(.*/)?position_embed"
# The final norm and the classifier, and masks for one size of image.
CLASSIFIER = r"(norm|head|head\.fc|layernorm|classifier)\.(weight|bias)"
SHIFT_MASKS = r"layers\.\d+\.blocks\.\d+\.attn_mask"
# Detectors put norms on their outputs that no classifier has.
FRESH_NORMS = ((r"(.*/)?norm\d/scale", 1.0), (r"(.*/)?norm\d/bias", 0.0))


def swin_modules(official: str = "", path: str = "", later: int = 0) -> tuple[Rename, ...]:
    """Microsoft's names of all but the output norms, under prefixes with their separators.

    Args:
      later: how many stages after its own a merging is counted (timm: 1).
    """
    theirs, ours = official + BLOCK, f"{path}stage{{s}}_{{b}}/"
    mergings = (
        rename(f"{official}layers.{s + later}.downsample.{leaf}", f"{path}downsample{s}/{leaf}")
        for s in STAGES[:-1]
        for leaf in ("norm", "reduction")
    )
    return (
        rename(f"{official}patch_embed.proj", f"{path}patch_embed"),
        rename(f"{official}patch_embed.norm", f"{path}patch_norm"),
        rename(f"{theirs}norm{{n}}", f"{ours}norm{{n}}"),
        rename(f"{theirs}attn.{PARTS}", f"{ours}attn/{PARTS}"),
        rename(f"{theirs}attn.proj", f"{ours}attn/out_proj"),
        rename(f"{theirs}mlp.fc{{n}}", f"{ours}mlp/linear{{n}}"),
        *mergings,
    )


def swin_norms(official: str = "", path: str = "") -> tuple[Rename, ...]:
    """The norms on a detector's outputs."""
    return (rename(f"{official}norm{{s}}", f"{path}norm{{s}}"),)


def swin_tensors(official: str = "", path: str = "") -> tuple[Rename, ...]:
    """Microsoft's names of what is no module's weight or bias."""
    return (
        rename(f"{official}{BLOCK}attn.{BIAS_TABLE}", f"{path}stage{{s}}_{{b}}/attn/{BIAS_TABLE}"),
        rename(f"{official}absolute_pos_embed", f"{path}position_embed"),
    )


def swin_fusion(official: str = "") -> Fusion:
    """Queries, keys and values lie in one tensor, in this order."""
    return Fusion(
        Template(f"{official}{BLOCK}attn.qkv.{{leaf:weight|bias}}"),
        Template(f"{official}{BLOCK}attn.{{part:[qkv]}}_proj.{{leaf:weight|bias}}"),
        ("q", "k", "v"),
    )


def swin_buffer(official: str = "") -> Buffer:
    """Which offset lies between two tokens of a window."""
    attention = f"{official}{BLOCK}attn."
    return Buffer(Template(attention + INDEX), Template(attention + BIAS_TABLE), offsets_index)


def huggingface_swin_modules(official: str = "", path: str = "") -> tuple[Rename, ...]:
    """Hugging Face's names of all but the output norms, under prefixes with their separators."""
    theirs, ours = official + HUGGINGFACE_BLOCK, f"{path}stage{{s}}_{{b}}/"
    merging = "downsample{s}/{leaf:norm|reduction}"
    return (
        rename(f"{official}embeddings.patch_embeddings.projection", f"{path}patch_embed"),
        rename(f"{official}embeddings.norm", f"{path}patch_norm"),
        rename(f"{theirs}layernorm_before", f"{ours}norm1"),
        rename(f"{theirs}layernorm_after", f"{ours}norm2"),
        *(rename(f"{theirs}attention.self.{p}", f"{ours}attn/{q}") for p, q in HUGGINGFACE_PARTS),
        rename(f"{theirs}attention.output.dense", f"{ours}attn/out_proj"),
        rename(f"{theirs}intermediate.dense", f"{ours}mlp/linear1"),
        rename(f"{theirs}output.dense", f"{ours}mlp/linear2"),
        rename(
            f"{official}encoder.layers.{{s}}.downsample.{{leaf:norm|reduction}}", path + merging
        ),
    )


def huggingface_swin_norms(official: str = "", path: str = "") -> tuple[Rename, ...]:
    """The norms on a detector's outputs, numbered from 1."""
    return tuple(
        rename(f"{official}hidden_states_norms.stage{s + 1}", f"{path}norm{s}") for s in STAGES
    )


def huggingface_swin_tensors(official: str = "", path: str = "") -> tuple[Rename, ...]:
    """Hugging Face's names of what is no module's weight or bias."""
    table = f"attention.self.{BIAS_TABLE}"
    return (
        rename(
            f"{official}{HUGGINGFACE_BLOCK}{table}", f"{path}stage{{s}}_{{b}}/attn/{BIAS_TABLE}"
        ),
        rename(f"{official}embeddings.position_embeddings", f"{path}position_embed"),
    )


def huggingface_swin_buffer(official: str = "") -> Buffer:
    """Which offset lies between two tokens of a window."""
    attention = f"{official}{HUGGINGFACE_BLOCK}attention.self."
    return Buffer(Template(attention + INDEX), Template(attention + BIAS_TABLE), offsets_index)


def _huggingface(name: str, title: str, norms: tuple[Rename, ...], **fields) -> Table:
    return Table(
        name,
        title,
        (*huggingface_swin_modules(), *norms),
        tensors=huggingface_swin_tensors(),
        layouts=(BIAS_LAYOUT, (POSITION, TOKENS)),
        buffers=(huggingface_swin_buffer(),),
        spellings=HUGGINGFACE_SPELLINGS,
        **fields,
    )


# What transformers 5 calls the same modules in memory; it saves these names only with
# save_original_format=False.
HUGGINGFACE_SPELLINGS = (
    (r"^swin\.", ""),
    *((rf"\.attention\.{q}\.", f".attention.self.{p}.") for p, q in HUGGINGFACE_PARTS),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
    (r"\.attention\.relative_position_bias\.", ".attention.self."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
)
MICROSOFT = {
    "tensors": swin_tensors(),
    "fusions": (swin_fusion(),),
    "buffers": (swin_buffer(),),
}
FROM_CLASSIFIER = {"drops": (SHIFT_MASKS, CLASSIFIER), "defaults": FRESH_NORMS}

# A file without any norm at its end is a classifier's: of two tables that know the same keys the
# first is taken.
TABLES = (
    Table(
        "swin.classification",
        "Microsoft's Swin for classification",
        swin_modules(),
        layouts=(BIAS_LAYOUT, (POSITION, TOKENS)),
        **MICROSOFT,
        **FROM_CLASSIFIER,
    ),
    Table(
        "swin",
        "Swin of a detector",
        (*swin_modules(), *swin_norms()),
        layouts=(BIAS_LAYOUT, (POSITION, CHANNELS_FIRST)),
        **MICROSOFT,
    ),
    Table(
        "swin.timm",
        "timm's Swin",
        swin_modules(later=1),
        tensors=swin_tensors(),
        fusions=(swin_fusion(),),
        layouts=(BIAS_LAYOUT, (POSITION, TOKENS)),
        **FROM_CLASSIFIER,
    ),
    _huggingface(
        "swin.huggingface_classification", "Hugging Face SwinModel", (), **FROM_CLASSIFIER
    ),
    _huggingface(
        "swin.huggingface",
        "Hugging Face SwinBackbone",
        huggingface_swin_norms(),
        drops=(CLASSIFIER,),
    ),
)


def without_last_stage(state: Mapping[str, Any], shapes: Mapping[str, Any]) -> tuple[dict, dict]:
    """A plain Swin's tensors for a dilated one, whose last stage starts afresh.

    Args:
      state: of Microsoft's names.
      shapes: nested shapes of the backbone's parameters.

    Returns:
      Both without the last stage, where the model has no merging before it and the state has.
    """
    last = max(int(name[5:].split("_")[0]) for name in shapes if name.startswith("stage"))
    merging = f"layers.{last - 1}.downsample."
    if f"downsample{last - 1}" in shapes or not any(key.startswith(merging) for key in state):
        return dict(state), dict(shapes)
    kept = {k: v for k, v in state.items() if not k.startswith((merging, f"layers.{last}."))}
    return kept, {k: v for k, v in shapes.items() if not k.startswith(f"stage{last}_")}

"""BERT in Hugging Face's names; other models nest it under prefixes."""

from jaxseg_convert_torch.table import Rename, Table, rename

# Theirs within a layer, and ours.
LAYER = (
    ("attention.self.query", "attn/q_proj"),
    ("attention.self.key", "attn/k_proj"),
    ("attention.self.value", "attn/v_proj"),
    ("attention.output.dense", "attn/out_proj"),
    ("attention.output.LayerNorm", "norm1"),
    ("intermediate.dense", "linear1"),
    ("output.dense", "linear2"),
    ("output.LayerNorm", "norm2"),
)
KIND = "{kind:word|position|token_type}"
# A buffer that counts the positions, wherever BERT lies.
BERT_DROPS = (r"(.*\.)?embeddings\.position_ids",)
# The oldest files' names of a norm's scale and bias.
SPELLINGS = ((r"(.*LayerNorm)\.gamma", r"\1.weight"), (r"(.*LayerNorm)\.beta", r"\1.bias"))


def bert_modules(official: str = "", path: str = "") -> tuple[Rename, ...]:
    """Names of the modules under prefixes with their separators."""
    return (
        rename(f"{official}embeddings.{KIND}_embeddings", f"{path}embeddings/{KIND}"),
        rename(f"{official}embeddings.LayerNorm", f"{path}embeddings/norm"),
        *(
            rename(f"{official}encoder.layer.{{i}}.{theirs}", f"{path}layer_{{i}}/{ours}")
            for theirs, ours in LAYER
        ),
        rename(f"{official}pooler.dense", f"{path}pooler"),
    )


TABLES = (
    Table(
        "bert",
        "BERT",
        bert_modules(),
        drops=(*BERT_DROPS, r"cls\..*"),  # the heads of pre-training
        spellings=((r"^bert\.(.*)", r"\1"), *SPELLINGS),
    ),
)

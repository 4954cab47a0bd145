"""CLIP: OpenAI's names and Hugging Face's."""

from jaxseg_convert_torch.table import Fusion, Layout, Rename, Table, rename
from jaxseg_convert_torch.templates import Template

PARTS = "{p:[qkv]}_proj"
# OpenAI multiplies with these from the right, as we do; kernels elsewhere are transposed.
RIGHT = ((r"(image|text)/proj/kernel", Layout(lambda value, shape: value)),)
# OpenAI's archives keep sizes among the tensors.
SIZES = r"input_resolution|context_length|vocab_size"
TOWERS = (("transformer.", "text/"), ("visual.transformer.", "image/"))
HUGGINGFACE_TOWERS = (("text_model.", "text/"), ("vision_model.", "image/"))


def _blocks(official: str, path: str) -> tuple[Rename, ...]:
    theirs, ours = f"{official}resblocks.{{i}}.", f"{path}block_{{i}}/"
    return (
        rename(f"{theirs}ln_{{n}}", f"{ours}norm{{n}}"),
        rename(f"{theirs}attn.{PARTS}", f"{ours}attn/{PARTS}"),
        rename(f"{theirs}attn.out_proj", f"{ours}attn/out_proj"),
        rename(f"{theirs}mlp.c_fc", f"{ours}linear1"),
        rename(f"{theirs}mlp.c_proj", f"{ours}linear2"),
    )


def _fusion(official: str) -> Fusion:
    attention = f"{official}resblocks.{{i}}.attn."
    return Fusion(
        Template(f"{attention}in_proj_{{leaf:weight|bias}}"),
        Template(f"{attention}{{part:[qkv]}}_proj.{{leaf:weight|bias}}"),
        ("q", "k", "v"),
    )


def _openai() -> Table:
    return Table(
        "clip",
        "CLIP",
        (
            *(module for tower in TOWERS for module in _blocks(*tower)),
            rename("token_embedding", "text/token_embed"),
            rename("ln_final", "text/norm_final"),
            rename("visual.conv1", "image/patch_embed"),
            rename("visual.ln_{side:pre|post}", "image/norm_{side:pre|post}"),
        ),
        tensors=(
            rename("positional_embedding", "text/position_embed"),
            rename("text_projection", "text/proj/kernel"),
            rename("visual.class_embedding", "image/class_token"),
            rename("visual.positional_embedding", "image/position_embed"),
            rename("visual.proj", "image/proj/kernel"),
            rename("logit_scale"),
        ),
        fusions=tuple(_fusion(official) for official, _ in TOWERS),
        layouts=RIGHT,
        drops=(SIZES,),
    )


def _huggingface_blocks(official: str, path: str) -> tuple[Rename, ...]:
    theirs, ours = f"{official}encoder.layers.{{i}}.", f"{path}block_{{i}}/"
    projections = "{p:q|k|v|out}_proj"
    return (
        rename(f"{theirs}layer_norm{{n}}", f"{ours}norm{{n}}"),
        rename(f"{theirs}self_attn.{projections}", f"{ours}attn/{projections}"),
        rename(f"{theirs}mlp.fc{{n}}", f"{ours}linear{{n}}"),
    )


def _huggingface() -> Table:
    text, image = (f"{tower}_model.embeddings." for tower in ("text", "vision"))
    return Table(
        "clip.huggingface",
        "Hugging Face CLIP",
        (
            *(module for tower in HUGGINGFACE_TOWERS for module in _huggingface_blocks(*tower)),
            rename(f"{text}token_embedding", "text/token_embed"),
            rename("text_model.final_layer_norm", "text/norm_final"),
            rename("text_projection", "text/proj"),
            rename(f"{image}patch_embedding", "image/patch_embed"),
            rename("vision_model.pre_layrnorm", "image/norm_pre"),
            rename("vision_model.post_layernorm", "image/norm_post"),
            rename("visual_projection", "image/proj"),
        ),
        tensors=(
            rename(f"{text}position_embedding.weight", "text/position_embed"),
            rename(f"{image}class_embedding", "image/class_token"),
            rename(f"{image}position_embedding.weight", "image/position_embed"),
            rename("logit_scale"),
        ),
        # Old versions of transformers wrote the numbers of the positions.
        drops=(r"(text|vision)_model\.embeddings\.position_ids",),
    )


TABLES = (_openai(), _huggingface())

"""Kind `text/clip`: both towers, and what images and texts become before them."""

import hashlib
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from jaxseg.models.clip import Clip
from jaxseg.models.clip import clip as build_clip
from jaxseg.predict.clip_image import clip_pixels
from jaxseg.text.bpe import BytePairs
from jaxseg_convert_torch import load_state_dict
from tests.golden.common import expect, nchw
from tests.quick import quick_jit
from tests.vocabulary import package_file


def build(config: dict) -> Clip:
    """The CLIP of a case's config."""
    expect(config, train=False, normalise_features=False, prefix="", quick_gelu_factor=1.702)
    expect(config, text_pool="position of the largest id")
    return build_clip(
        width=config["embed_dim"],
        image_width=config["vision_width"],
        image_depth=config["vision_layers"],
        image_heads=config["vision_heads"],
        image_size=config["image_resolution"],
        patch=config["vision_patch_size"],
        text_width=config["transformer_width"],
        text_depth=config["transformer_layers"],
        text_heads=config["transformer_heads"],
        context=config["context_length"],
        vocabulary=config["vocab_size"],
        mlp_ratio=float(config["mlp_ratio"]),
        activation=config["activation"],
        epsilon=config["layer_norm_eps"],
    )


def clip(case, inputs) -> dict:
    """`text/clip`: tensors of the whole model, and of the preparation of its inputs."""
    config = case.spec["config"]
    model = build(config)
    params = load_state_dict("clip", case.weights(), model)
    pixels = np.moveaxis(inputs["pixel_values"].astype(np.float32), 1, -1)
    run = quick_jit(lambda params, *x: model.apply({"params": params}, *x))
    output = run(params, jnp.asarray(pixels), jnp.asarray(inputs["input_ids"]))
    hidden = {
        f"text.tokens.{i}": np.asarray(tokens) for i, tokens in enumerate(output.text.hidden, 1)
    }
    named = {
        "image.tokens.pre": output.image.embedded,
        "image.tokens.last": output.image.tokens,
        "image.pooled": output.image.pooled,
        "image.features": output.image.features,
        "text.tokens.last": output.text.hidden[-1],
        "text.features": output.text.features,
        "logits_per_image": output.logits,
        **prepared(config, inputs),
    }
    return {None: hidden | {name: np.asarray(value) for name, value in named.items()}}


def prepared(config: dict, inputs: dict) -> dict[str, np.ndarray]:
    """Images and texts as the towers take them, where the case has some."""
    found = {}
    if "texts" in inputs:
        found["text.input_ids"] = tokenize(config["tokenizer"], inputs["texts"])
    images = sorted((n for n in inputs if n.startswith("image")), key=lambda n: int(n[5:]))
    if images:
        found["image.pixel_values"] = prepare(config["image"], [inputs[n] for n in images])
    return found


def prepare(config: dict, images: list[np.ndarray]) -> np.ndarray:
    """Pixels of images by a case's `config.image`, NCHW."""
    size = config["resize"]["short_side"]
    expect(config, channels="RGB", dtype="uint8", value_range=[0, 255], rescale=1 / 255)
    expect(config["resize"], long_side="floor(short_side * long / short)")
    expect(config["center_crop"], size=size, offset="round half to even of (side - size) / 2")
    if not config["resize"]["filter"].startswith("Pillow bicubic"):
        raise ValueError(f"config.image.resize.filter: {config['resize']['filter']!r}")
    return nchw(clip_pixels(images, size, config["mean"], config["std"]))


def tokenize(config: dict, texts: list[str]) -> np.ndarray:
    """Token ids of texts by a case's `config.tokenizer`."""
    tokens = BytePairs(merges_file(config))
    steps = ["ftfy.fix_text", "html.unescape twice", "strip", "collapse whitespace", "lower"]
    expect(config, type="clip_bpe", clean=steps, pad=0)
    expect(config, vocab_size=len(tokens.ids), sot=tokens.start, eot=tokens.end)
    return tokens(texts, config["context_length"], config["truncate"])


def merges_file(config: dict) -> Path:
    """The file of merges in the installed package that the case names, checked by its digest."""
    package = config["merges_package"]
    path = package_file(package["file"], package["name"], package["version"])
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    expect(config, merges_sha256=digest)
    return path


KINDS = {"text/clip": clip}

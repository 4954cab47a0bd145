"""A tiny DETR with random weights that draws its boxes apart."""

from collections.abc import Collection, Sequence
from pathlib import Path

import jax
import numpy as np
from flax import linen as nn

from jaxseg.checkpoints import ImageConfig, save_pretrained
from jaxseg.data.classes import Classes
from jaxseg.models import build
from jaxseg.params import abstract_params, flatten, unflatten

CLASSES = Classes.from_names(["circle", "square", "star", "ring", "cross"])
CONFIG = ImageConfig(short_side=64, long_side=107)
FIELDS = {"num_queries": 12, "encoder_layers": 1, "decoder_layers": 1}


def tiny_detr(name: str = "detr.tiny", **fields) -> tuple[nn.Module, dict]:
    """Model and parameters, drawn without compiling `model.init`."""
    model = build(name, **FIELDS | fields)
    rng = np.random.default_rng(3)

    def leaf(path: str, shape: tuple) -> np.ndarray:
        if path.endswith(("scale", "bias")):
            return np.full(shape, path.endswith("scale"), np.float32)
        deviation = 1.0 if path.endswith("embedding") else np.prod(shape[:-1]) ** -0.5
        return rng.normal(0, deviation, shape).astype(np.float32)

    flat = {path: leaf(path, x.shape) for path, x in flatten(abstract_params(model)).items()}
    # Sharp attention: otherwise every query of random weights sees the mean of the image.
    flat["decoder/layer_0/cross_attn/q_proj/kernel"] *= 30
    flat["bbox_embed/layer_2/kernel"] *= 4
    return model, unflatten(flat)


def save_tiny(
    folder: Path,
    damaged: str | None = None,
    name: str = "detr.tiny",
    names: Sequence[str] = CLASSES.names,
    stuff: Collection[int] = (),
) -> Path:
    """A folder of these weights, those of the part `damaged` not finite."""
    fields = FIELDS | {"num_classes": len(names)}
    _, params = tiny_detr(name, num_classes=len(names))
    if damaged:
        params[damaged] = jax.tree.map(lambda x: x * np.nan, params[damaged])
    classes = Classes(names, range(len(names)), stuff)
    save_pretrained(folder, name, fields, params, classes=classes, image=CONFIG, probe=False)
    return folder

"""From a module back to its builder's name and arguments, which `config.json` keeps.

A run's module may have been changed by overrides after it was built; what is written beside the
weights must build the module that was trained.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from jaxseg.backbones.resnet import NORMS, SIZES
from jaxseg.errors import UserError
from jaxseg.models import MODELS, build
from jaxseg.models.detr import Detr
from jaxseg.models.detr.builders import ACTIVATIONS, POSITIONS


def describe(model: nn.Module) -> tuple[str, dict[str, Any]]:
    """(name, kwargs) with `models.build(name, **kwargs)` equal to `model`, in float32.

    The shortest description is chosen.

    Raises:
      UserError: no builder makes this module.
    """
    model = _in_float32(model)
    candidates = []
    for name in MODELS:
        base = build(name)
        if type(base) is not type(model) or type(model) not in FAMILIES:
            continue
        arguments = FAMILIES[type(model)]
        wanted, given = arguments(model), arguments(base)
        kwargs = {key: value for key, value in wanted.items() if given[key] != value}
        if None not in kwargs.values() and build(name, **kwargs) == model:
            candidates.append((len(kwargs), name, kwargs))
    if not candidates:
        raise UserError(
            "the model cannot be built by any of the named builders with plain arguments, so "
            f"its weights could not be loaded again ({type(model).__name__} with changed parts). "
            f"Builders are {', '.join(sorted(MODELS))}: undo overrides of inner parts of the model"
        )
    _, name, kwargs = min(candidates, key=lambda c: c[0])
    return name, kwargs


def _in_float32(model: nn.Module) -> nn.Module:
    # How a run computes is no part of what its weights are.
    parts = {f.name: getattr(model, f.name) for f in dataclasses.fields(model) if f.init}
    changed: dict[str, Any] = {
        name: _in_float32(part) for name, part in parts.items() if isinstance(part, nn.Module)
    }
    changed |= {name: jnp.float32 for name in ("dtype", "param_dtype") if name in parts}
    if "remat" in parts:
        changed["remat"] = False
    return dataclasses.replace(model, **changed)


def _detr_arguments(model: Detr) -> dict[str, Any]:
    """The arguments of `models.detr.detr`; None where no value gives this module."""
    backbone, encoder = model.backbone, model.encoder
    stages = (tuple(getattr(backbone, "depths", ())), getattr(backbone, "bottleneck", None))
    return {
        "depth": _key_of(SIZES, stages),
        "norm": _key_of(NORMS, getattr(backbone, "norm", None)),
        "stem": getattr(backbone, "width", None),
        "dilation": getattr(backbone, "dilation", None),
        "width": model.width,
        "num_heads": encoder.num_heads,
        "feedforward": encoder.feedforward,
        "encoder_layers": encoder.num_layers,
        "decoder_layers": model.decoder.num_layers,
        "dropout": encoder.dropout,
        "activation": _key_of(ACTIVATIONS, encoder.activation),
        "pre_norm": encoder.pre_norm,
        "position": _key_of(POSITIONS, type(model.position)),
        "num_queries": model.num_queries,
        "num_classes": model.num_classes,
        "canvas": model.canvas,
    }


def _key_of(table: dict, value: Any) -> Any:
    return next((key for key, known in table.items() if known == value), None)


FAMILIES = {Detr: _detr_arguments}

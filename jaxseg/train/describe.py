"""From a module back to its builder's name and arguments, which `config.json` keeps.

A run's module may have been changed by overrides after it was built; what is written beside the
weights must build the module that was trained.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from jaxseg.backbones.resnet import NORMS, SIZES
from jaxseg.backbones.swin import SIZES as SWINS
from jaxseg.backbones.swin import WINDOWS, Swin
from jaxseg.backbones.vit import SIZES as VITS
from jaxseg.errors import UserError
from jaxseg.models import MODELS, build
from jaxseg.models.clip.builders import ACTIVATIONS as CLIP_ACTIVATIONS
from jaxseg.models.detr.builders import ACTIVATIONS, POSITIONS
from jaxseg.models.detr.deformable_decoder import DeformableDecoder
from jaxseg.models.grounding_dino.builders import FUSIONS
from jaxseg.models.grounding_dino.decoder import GroundedDecoderLayer
from jaxseg.models.grounding_dino.enhancer import FeatureEnhancer
from jaxseg.necks.simple_feature_pyramid import PyramidBackbone

# Fields that say how a module computes; what they are here changes no weight.
PLAIN = {"remat": False, "implementation": None, "queries_at_once": None}
UNKNOWN = object()  # an argument that no value gives this module


def describe(model: nn.Module) -> tuple[str, dict[str, Any]]:
    """(name, kwargs) with `models.build(name, **kwargs)` equal to `model`, in float32.

    The shortest description is chosen.

    Raises:
      UserError: no builder makes this module.
    """
    model = _in_float32(model)
    candidates = []
    for name in MODELS:
        kwargs = describe_as(model, name)
        if kwargs is not None:
            candidates.append((len(kwargs), name, kwargs))
    if not candidates:
        raise UserError(
            "the model cannot be built by any of the named builders with plain arguments, so "
            f"its weights could not be loaded again ({type(model).__name__} with changed parts). "
            f"Builders are {', '.join(sorted(MODELS))}: undo overrides of inner parts of the model"
        )
    _, name, kwargs = min(candidates, key=lambda c: c[0])
    return name, kwargs


def describe_as(model: nn.Module, name: str) -> dict[str, Any] | None:
    """The arguments with which the builder `name` makes `model`; None if none do."""
    model, base = _in_float32(model), build(name)
    if type(base) is not type(model):
        return None
    wanted, given = _arguments(model), _arguments(base)
    kwargs = {key: x for key, x in wanted.items() if given.get(key, UNKNOWN) != x}
    return kwargs if _builds(name, kwargs, model) else None


def _builds(name: str, kwargs: dict[str, Any], model: nn.Module) -> bool:
    if UNKNOWN in kwargs.values():
        return False
    try:
        return build(name, **kwargs) == model
    except (TypeError, ValueError):  # no such argument, or no such combination
        return False


def _in_float32(model: nn.Module) -> nn.Module:
    # How a run computes is no part of what its weights are.
    parts = {f.name: getattr(model, f.name) for f in dataclasses.fields(model) if f.init}
    changed: dict[str, Any] = {
        name: _in_float32(part) for name, part in parts.items() if isinstance(part, nn.Module)
    }
    changed |= {name: jnp.float32 for name in ("dtype", "param_dtype") if name in parts}
    changed |= {name: plain for name, plain in PLAIN.items() if name in parts}
    return dataclasses.replace(model, **changed)


def _arguments(model: nn.Module) -> dict[str, Any]:
    """Builders' arguments by name, read off the module's parts."""
    fields = {f.name: getattr(model, f.name) for f in dataclasses.fields(model) if f.init}
    hidden = ("parent", "name", "dtype", "param_dtype")
    arguments = {
        name: value
        for name, value in fields.items()
        if name not in (*hidden, *PARTS) and not isinstance(value, nn.Module)
    }
    for part, read in PARTS.items():
        if part in fields:
            arguments |= read(fields[part])
    return arguments


def _backbone(part: nn.Module) -> dict[str, Any]:
    if isinstance(part, Swin):
        shape = (part.width, tuple(part.depths), tuple(part.num_heads))
        return {
            "swin": next((size for size, row in SWINS.items() if row == shape), shape),
            "pretraining": _key_of(WINDOWS, part.window),
            "drop_path": part.drop_path,
        }
    if isinstance(part, PyramidBackbone):
        net = part.net
        shape = (net.width, net.depth, net.num_heads)
        return {
            "vit": next((size for size, s in VITS.items() if s[:3] == shape), UNKNOWN),
            "image_size": net.image_size,
            "drop_path": net.drop_path,
        }
    stages = (tuple(getattr(part, "depths", ())), getattr(part, "bottleneck", None))
    return {
        "depth": _key_of(SIZES, stages),
        "norm": _key_of(NORMS, getattr(part, "norm", None)),
        "stem": getattr(part, "width", UNKNOWN),
        "dilation": getattr(part, "dilation", UNKNOWN),
    }


def _encoder(part: nn.Module) -> dict[str, Any]:
    arguments = {"encoder_layers": part.num_layers}
    for name in ("num_heads", "num_points", "feedforward", "dropout", "pre_norm"):
        if hasattr(part, name):
            arguments[name] = getattr(part, name)
    if isinstance(part, FeatureEnhancer):
        names = {"fusion_drop_path": "drop_path"}
        names |= {n: n for n in ("fusion_heads", "fusion_width", "text_heads", "text_feedforward")}
        arguments |= {ours: getattr(part, name) for ours, name in names.items()}
        arguments["fusion"] = _key_of(FUSIONS, part.fusion)
    return arguments | {"activation": _key_of(ACTIVATIONS, part.activation)}


def _decoder(part: nn.Module) -> dict[str, Any]:
    arguments = {"decoder_layers": part.num_layers}
    if isinstance(part, DeformableDecoder):
        arguments["text_attention"] = part.layer is GroundedDecoderLayer
    return arguments


def _bert(part: nn.Module) -> dict[str, Any]:
    names = {"layers": "num_layers", "heads": "num_heads", "feedforward": "mlp_width"}
    names |= {name: name for name in ("width", "dropout", "pooler")}
    arguments = {f"bert_{ours}": getattr(part, name) for ours, name in names.items()}
    return arguments | {"vocabulary": part.vocabulary}


def _image_encoder(part: nn.Module) -> dict[str, Any]:
    vit = part.vit
    own = ("global_blocks", "image_size", "patch", "window", "mlp_ratio", "relative", "drop_path")
    arguments = {name: getattr(vit, name) for name in own}
    arguments["global_blocks"] = tuple(arguments["global_blocks"])
    sizes = {"width": "width", "depth": "depth", "heads": "num_heads"}
    return arguments | {f"encoder_{ours}": getattr(vit, name) for ours, name in sizes.items()}


def _mask_decoder(part: nn.Module) -> dict[str, Any]:
    inner, own = part.transformer, ("multimask_outputs", "iou_width", "iou_layers")
    names = ("num_heads", "feedforward", "downsample", "dropout")
    return {
        "decoder_layers": inner.num_layers,
        "decoder_epsilon": inner.epsilon,
        **{name: getattr(inner, name) for name in names},
        **{name: getattr(part, name) for name in own},
    }


def _clip_tower(prefix: str, *own: str) -> Callable[[nn.Module], dict[str, Any]]:
    """Arguments of one of CLIP's towers, and those that both share."""

    def read(part: nn.Module) -> dict[str, Any]:
        sizes = {"width": "width", "depth": "depth", "heads": "num_heads"}
        return {
            "width": part.features,
            "activation": _key_of(CLIP_ACTIVATIONS, part.activation),
            **{f"{prefix}_{ours}": getattr(part, name) for ours, name in sizes.items()},
            **{name: getattr(part, name) for name in ("mlp_ratio", "epsilon", *own)},
        }

    return read


def _labels(part: nn.Module | None) -> dict[str, Any]:
    if part is None:
        return {"denoising": False}
    noise = {"label_noise": part.label_noise, "box_noise": part.box_noise}
    return {"denoising": True, "dn_groups": part.groups} | noise


# How each part of a model answers.
PARTS: dict[str, Callable[[nn.Module], dict[str, Any]]] = {
    "backbone": _backbone,
    "neck": lambda part: {} if part is None else {"num_levels": part.num_levels},
    "encoder": _encoder,
    "decoder": _decoder,
    "bert": _bert,
    "position": lambda part: {
        "position": _key_of(POSITIONS, type(part)),
        "temperature": getattr(part, "temperature", (None,))[0],
    },
    "labels": _labels,
    "image_encoder": _image_encoder,
    "prompt_encoder": lambda part: {"width": part.width, "mask_channels": part.mask_channels},
    "mask_decoder": _mask_decoder,
    "image": _clip_tower("image", "image_size", "patch"),
    "text": _clip_tower("text", "context", "vocabulary"),
}


def _key_of(table: dict, value: Any) -> Any:
    return next((key for key, known in table.items() if known == value), UNKNOWN)

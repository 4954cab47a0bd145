"""The ResNets of Hugging Face's detection transformers: timm's and its own, read and written."""

from collections.abc import Mapping, Sequence
from typing import Any

from flax import linen as nn

from jaxseg.backbones.resnet import SIZES
from jaxseg.errors import UserError
from jaxseg_convert_torch.huggingface_fields import require, require_count

STAGES = ["stage1", "stage2", "stage3", "stage4"]
# What transformers' ResNetConfig assumes where a file is silent; all but sizes must be so here.
RESNET = {
    "embedding_size": 64,
    "hidden_sizes": [256, 512, 1024, 2048],
    "depths": [3, 4, 6, 3],
    "layer_type": "bottleneck",
    "hidden_act": "relu",
    "num_channels": 3,
    "downsample_in_first_stage": False,
    "downsample_in_bottleneck": False,
}


def read_backbone(
    config: Mapping[str, Any], stages: Sequence[str] | None = None
) -> tuple[int, bool, int]:
    """Depth, dilation and the channels of the stem.

    Args:
      stages: those whose features the model takes, none else; None: the last alone, whatever
        other features there are.

    Raises:
      UserError: another backbone, by the name of its field.
    """
    inner = config.get("backbone_config") or {}
    if not isinstance(inner, Mapping):
        raise UserError(f"config.json: backbone_config must be an object; got {inner!r}")
    timm = inner.get("model_type") == "timm_backbone" or (
        not inner and config.get("use_timm_backbone", True)
    )
    if timm:
        return *_read_timm(config, inner, stages), RESNET["embedding_size"]
    require("backbone_config.model_type", inner.get("model_type", "resnet"), ["resnet"])
    # transformers itself dilates timm's backbones only.
    require("dilation with its own ResNet", config.get("dilation", False), [False])
    found = {name: inner.get(name, value) for name, value in RESNET.items()}
    for name in ("depths", "hidden_sizes"):
        if not isinstance(found[name], list):
            raise UserError(f"config.json: backbone_config.{name} must be a list of numbers")
    for name in sorted(set(RESNET) - {"embedding_size", "hidden_sizes", "depths", "layer_type"}):
        require(f"backbone_config.{name}", found[name], [RESNET[name]])
    features = inner.get("out_features") or STAGES[-1:]
    if stages is not None:
        require("backbone_config.out_features", features, [list(stages)])
    require("the last of backbone_config.out_features", features[-1], STAGES[-1:])
    return _read_size(found)


def _read_size(found: Mapping[str, Any]) -> tuple[int, bool, int]:
    stem = found["embedding_size"]
    require_count("backbone_config.embedding_size", stem)
    for depth, (depths, bottleneck) in SIZES.items():
        if found["depths"] == list(depths) and bottleneck == (found["layer_type"] != "basic"):
            widths = _hidden_sizes(stem, bottleneck)
            require("backbone_config.hidden_sizes", found["hidden_sizes"], [widths])
            return depth, False, stem
    allowed = [list(depths) for depths, _ in SIZES.values()]
    require(f"backbone_config.depths of {found['layer_type']} layers", found["depths"], allowed)
    raise UserError(f"backbone_config.layer_type {found['layer_type']!r} has no such depths")


def _hidden_sizes(stem: int, bottleneck: bool) -> list[int]:
    """Channels of the four stages of a ResNet."""
    return [stem * (4 if bottleneck else 1) * 2**stage for stage in range(4)]


def _read_timm(config, inner, stages) -> tuple[int, bool]:
    name = (inner.get("backbone") or config.get("backbone") or "resnet50").split(".")[0]
    require("backbone", name, [f"resnet{depth}" for depth in SIZES])
    options = {**(config.get("backbone_kwargs") or {}), **inner}
    # Index 0 is the stem. Only where nothing is said does transformers choose what fits.
    wanted = [1 + STAGES.index(stage) for stage in stages or STAGES]
    indices = list(options.get("out_indices") or ([-1] if inner else wanted))
    require("the last of backbone_config.out_indices", indices[-1], [4, -1])
    if stages is not None and [index % 5 for index in indices] != wanted:
        require("backbone_config.out_indices", indices, [wanted])
    stride = options.get("output_stride") or (16 if config.get("dilation") else 32)
    require("backbone_config.output_stride", stride, [16, 32])
    depth = int(name.removeprefix("resnet"))
    _check_dilation(stride == 16, depth)
    return depth, stride == 16


def _check_dilation(dilation: bool, depth: int) -> None:
    """timm and this package dilate other convolutions of basic blocks."""
    if dilation and not SIZES[depth][1]:
        allowed = [f"resnet{depth}" for depth, (_, bottleneck) in SIZES.items() if bottleneck]
        raise UserError(
            f"a dilated backbone must be {' or '.join(allowed)}, whose blocks are bottlenecks; "
            f"got resnet{depth}"
        )


def write_backbone(backbone: nn.Module, own: bool, stages: Sequence[str]) -> dict[str, Any]:
    """The fields that `read_backbone` reads.

    Args:
      own: transformers' own ResNet, else timm's, which alone can be dilated.
      stages: those whose features the model takes.

    Raises:
      UserError: a ResNet that timm does not have.
    """
    depth = next(
        d for d, size in SIZES.items() if size == (tuple(backbone.depths), backbone.bottleneck)
    )
    if not own and backbone.width != RESNET["embedding_size"]:
        raise UserError(
            f"transformers takes dilated ResNets from timm, which has none with a stem of "
            f"{backbone.width} channels; write the official form instead"
        )
    _check_dilation(backbone.dilation, depth)
    if not own:
        return {
            "use_timm_backbone": True,
            "backbone": f"resnet{depth}",
            "dilation": backbone.dilation,
            "use_pretrained_backbone": False,
        }
    return {
        "use_timm_backbone": False,
        "backbone": None,
        "use_pretrained_backbone": False,
        "backbone_config": RESNET
        | {
            "model_type": "resnet",
            "depths": list(backbone.depths),
            "embedding_size": backbone.width,
            "hidden_sizes": _hidden_sizes(backbone.width, backbone.bottleneck),
            "layer_type": "bottleneck" if backbone.bottleneck else "basic",
            "out_features": list(stages),
        },
    }

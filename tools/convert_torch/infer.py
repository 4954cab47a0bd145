"""What an official DETR checkpoint says of its model, and what has to be assumed."""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from jaxseg.backbones.resnet import SIZES
from jaxseg.errors import UserError
from jaxseg_convert_torch.huggingface import name_builder

# Training argument -> builder argument, for what the tensors' shapes do not show.
ARGUMENTS = {"nheads": "num_heads", "dropout": "dropout", "dilation": "dilation"}


class Inferred(NamedTuple):
    """A builder's name and arguments, and a sentence for each that the file does not tell."""

    name: str
    kwargs: dict[str, Any]
    assumptions: list[str]


def infer_detr(
    state: Mapping[str, np.ndarray],
    args: Mapping[str, Any],
    file_name: str,
    model: str | None = None,
    num_heads: int | None = None,
) -> Inferred:
    """Find the builder of an official state dict.

    Sizes follow from keys and shapes. Dilation and the number of heads do not: they come from
    the training arguments where the file has them, else from the caller, else they are assumed.

    Args:
      file_name: published DC5 files have "dc5" in their names.
      model: the builder's name, if the caller knows it.
      num_heads: if the caller knows it; it goes before the training arguments.

    Raises:
      UserError: no DETR, or a model that the file contradicts.
    """
    masks = "mask_head.lay1.weight" in state
    try:
        heads = _mask_heads(state) if masks else {}
        state = {key.removeprefix("detr."): value for key, value in state.items()}
        kwargs, depth = _sizes(state), resnet_depth(state)
    except KeyError as error:
        raise UserError(f"{file_name} lacks {error}, which every DETR checkpoint has") from None
    except (ValueError, IndexError):
        raise UserError(f"{file_name} has tensors of another rank than DETR's") from None
    said = {ours: args[name] for name, ours in ARGUMENTS.items() if name in args}
    said |= {} if num_heads is None else {"num_heads": num_heads}
    if heads and said.setdefault("num_heads", heads["num_heads"]) != heads["num_heads"]:
        raise UserError(
            f"{file_name} has a mask head for {heads['num_heads']} attention heads; "
            f"num_heads={said['num_heads']} was said: leave it out"
        )
    assumptions = []
    dilation = said.pop("dilation", None)
    if model is None and dilation is None:
        dilation = "dc5" in file_name.lower()
        how = "its file name says so" if dilation else "its keys cannot tell"
        other = "detr.r50_dc5_panoptic" if masks else "detr.r50_dc5"
        assumptions.append(
            f"dilation={dilation} ({how}; name the model, such as {other}, to change it)"
        )
    builder = partial(name_builder, masks=masks, num_classes=kwargs["num_classes"])
    name, size = _choose(file_name, model, depth, dilation, builder)
    if "num_heads" not in said and kwargs["width"] != 256:
        assumptions.append("num_heads=8 (its shapes cannot tell)")
    return Inferred(name, size | kwargs | said, assumptions)


def _mask_heads(state) -> dict[str, int]:
    """The number of heads, which the mask head's first layer takes beside the width."""
    width = state["detr.query_embed.weight"].shape[1]
    return {"num_heads": state["mask_head.lay1.weight"].shape[1] - width}


def _choose(
    file_name, model, depth: int, dilation: bool | None, name_builder: Callable
) -> tuple[str, dict[str, Any]]:
    """The builder and its size, of which the file knows the depth and maybe the dilation."""
    possible = (False, True) if dilation is None else (bool(dilation),)
    # Where both have one name, the undilated is meant.
    fitting = dict(name_builder(depth, dilated) for dilated in reversed(possible))
    model = model or next(iter(fitting))
    if model not in fitting:
        dilated = "" if dilation is None else f", trained with dilation={bool(dilation)}"
        raise UserError(
            f"{file_name} is no {model}: its backbone is a ResNet-{depth}{dilated}; leave the "
            f"model out, or give {' or '.join(fitting)}"
        )
    return model, fitting[model]


def _sizes(state) -> dict[str, Any]:
    def layers(stack):
        return count_layers(state, rf"transformer\.{stack}\.layers\.(\d+)\.")

    queries, width = state["query_embed.weight"].shape
    return {
        "num_classes": state["class_embed.weight"].shape[0] - 1,
        "num_queries": queries,
        "width": width,
        "feedforward": state["transformer.decoder.layers.0.linear1.weight"].shape[0],
        "encoder_layers": layers("encoder"),
        "decoder_layers": layers("decoder"),
        "pre_norm": "transformer.encoder.norm.weight" in state,
        "stem": state["backbone.0.body.conv1.weight"].shape[0],
        "position": "learned" if "backbone.1.row_embed.weight" in state else "sine",
    }


def count_layers(keys: Iterable[str], pattern: str) -> int:
    """One more than the largest number that the pattern's group finds at the start of a key."""
    found = (re.match(pattern, key) for key in keys)
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def resnet_depth(state: Mapping[str, np.ndarray]) -> int:
    """Of an official detector's backbone.

    Raises:
      UserError: no ResNet has so many blocks.
    """
    bottleneck = "backbone.0.body.layer1.0.conv3.weight" in state
    counts = tuple(
        sum(f"backbone.0.body.layer{stage}.{block}.conv1.weight" in state for block in range(64))
        for stage in (1, 2, 3, 4)
    )
    for depth, size in SIZES.items():
        if size == (counts, bottleneck):
            return depth
    kind = "bottleneck" if bottleneck else "basic"
    raise UserError(
        f"its backbone has {counts} {kind} blocks; there are ResNets of depth {sorted(SIZES)}"
    )

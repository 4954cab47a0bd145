"""What OpenAI's checkpoints of CLIP say of their models."""

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxseg.errors import UserError
from jaxseg.native import build_model
from jaxseg.train.describe import describe, describe_as
from jaxseg_convert_torch.infer import Inferred, count_layers

HEAD = 64  # width of a head of either tower
# OpenAI's archives keep these beside the weights; others' files of the same names do not.
OWN = "input_resolution"
ACTIVATION, EPSILON = "quick_gelu", 1e-5


def infer_clip(
    state: Mapping[str, np.ndarray],
    file_name: str,
    model: str | None = None,
    num_heads: int | None = None,
) -> Inferred:
    """Find the builder of an official state dict; all sizes follow from keys and shapes.

    Args:
      model: the builder's name, if the caller knows it.
      num_heads: refused, as both towers' heads follow from their widths.

    Raises:
      UserError: no CLIP with a vision transformer, or a model that the file contradicts.
    """
    if num_heads is not None:
        raise UserError(f"{file_name} is a CLIP, whose heads are {HEAD} wide: leave num_heads out")
    if "visual.layer1.0.conv1.weight" in state:
        raise UserError(
            f"{file_name} is a CLIP with a ResNet, which is not supported: take one with a vision "
            "transformer, such as ViT-B-32.pt"
        )
    try:
        kwargs = _sizes(state, file_name)
    except KeyError as error:
        raise UserError(f"{file_name} lacks {error}, which every such checkpoint has") from None
    except (ValueError, IndexError):
        raise UserError(f"{file_name} has tensors of another rank than CLIP's") from None
    built = build_model("clip.vit_b32", kwargs, file_name)
    name, kwargs = describe(built)
    if model is not None:
        kwargs, found = describe_as(built, model), name
        if kwargs is None:
            raise UserError(
                f"{file_name} is no {model}: its tensors are those of {found}; leave the model out"
            )
        name = model
    return Inferred(name, kwargs, _assumptions(state))


def _assumptions(state) -> list[str]:
    half = state["visual.proj"].dtype == jnp.float16
    if OWN in state or half:
        return []
    return [
        f"activation={ACTIVATION!r}, OpenAI's (its keys cannot tell; others trained with 'gelu')"
    ]


def _sizes(state, file_name: str) -> dict[str, Any]:
    image_width, _, _, patch = state["visual.conv1.weight"].shape
    tokens, _ = state["visual.positional_embedding"].shape
    context, text_width = state["positional_embedding"].shape
    vocabulary, _ = state["token_embedding.weight"].shape
    hidden, _ = state["visual.transformer.resblocks.0.mlp.c_fc.weight"].shape
    _, width = state["text_projection"].shape
    grid = math.isqrt(tokens - 1)
    if grid**2 != tokens - 1:
        raise UserError(f"{file_name} has positions for {tokens - 1} patches, which are no square")
    for tower, own in (("image", image_width), ("text", text_width)):
        if own % HEAD:
            raise UserError(
                f"{file_name} has {tower} tokens {own} wide, which heads of {HEAD} do not divide"
            )
    return {
        "width": width,
        "image_width": image_width,
        "image_depth": count_layers(state, r"visual\.transformer\.resblocks\.(\d+)\."),
        "image_heads": image_width // HEAD,
        "image_size": grid * patch,
        "patch": patch,
        "text_width": text_width,
        "text_depth": count_layers(state, r"transformer\.resblocks\.(\d+)\."),
        "text_heads": text_width // HEAD,
        "context": context,
        "vocabulary": vocabulary,
        "mlp_ratio": hidden / image_width,
    }

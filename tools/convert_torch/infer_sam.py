"""What official checkpoints of Segment Anything say of their models."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxseg.errors import UserError
from jaxseg.native import build_model
from jaxseg.train.describe import describe, describe_as
from jaxseg_convert_torch.infer import Inferred, count_layers

# Of the norms of two-way layers.
OFFICIAL_EPSILON = 1e-5


def infer_sam(
    state: Mapping[str, np.ndarray],
    file_name: str,
    model: str | None = None,
    num_heads: int | None = None,
) -> Inferred:
    """Find the builder of an official state dict.

    All sizes but the decoder's number of heads follow from keys and shapes.

    Args:
      model: the builder's name, if the caller knows it.
      num_heads: of the mask decoder; 8 where nobody says.

    Raises:
      UserError: no Segment Anything, or a model that the file contradicts.
    """
    try:
        kwargs = _encoder_sizes(state, file_name) | _decoder_sizes(state)
    except KeyError as error:
        raise UserError(f"{file_name} lacks {error}, which every such checkpoint has") from None
    except (ValueError, IndexError):
        raise UserError(
            f"{file_name} has tensors of another rank than Segment Anything's"
        ) from None
    notes = []
    if num_heads is None and kwargs["width"] != 256:
        notes.append("num_heads=8 (its shapes cannot tell)")
    built = build_model("sam.vit_h", kwargs | {"num_heads": num_heads or 8}, file_name)
    name, kwargs = describe(built)
    if model is not None:
        kwargs, found = describe_as(built, model), name
        if kwargs is None:
            raise UserError(
                f"{file_name} is no {model}: its tensors are those of {found}; leave the model out"
            )
        name = model
    return Inferred(name, kwargs, notes)


def _encoder_sizes(state, file_name: str) -> dict[str, Any]:
    _, grid, _, width = state["image_encoder.pos_embed"].shape
    patch = state["image_encoder.patch_embed.proj.weight"].shape[-1]
    depth = count_layers(state, r"image_encoder\.blocks\.(\d+)\.")
    tables = [state.get(f"image_encoder.blocks.{i}.attn.rel_pos_h") for i in range(depth)]
    hidden = state["image_encoder.blocks.0.mlp.lin1.weight"].shape[0]
    sizes = {
        "encoder_width": width,
        "encoder_depth": depth,
        "image_size": grid * patch,
        "patch": patch,
        "mlp_ratio": hidden / width,
        "width": state["image_encoder.neck.0.weight"].shape[0],
        "relative": tables[0] is not None,
    }
    if not sizes["relative"]:
        raise UserError(f"{file_name} has no relative positions, which say where its windows are")
    tables = [tables[0] if table is None else table for table in tables]  # reported as missing
    whole = [len(table) == 2 * grid - 1 for table in tables]
    sides = [(len(table) + 1) // 2 for table in tables]
    windows = {side for side, is_global in zip(sides, whole, strict=True) if not is_global}
    return sizes | {
        "encoder_heads": width // tables[0].shape[1],
        "global_blocks": tuple(i for i, is_global in enumerate(whole) if is_global),
        "window": windows.pop() if windows else 14,
    }


def _decoder_sizes(state) -> dict[str, Any]:
    layer = "mask_decoder.transformer.layers.0"
    narrow, width = state[f"{layer}.cross_attn_token_to_image.q_proj.weight"].shape
    head = "mask_decoder.iou_prediction_head.layers"
    return {
        "decoder_layers": count_layers(state, r"mask_decoder\.transformer\.layers\.(\d+)\."),
        "feedforward": state[f"{layer}.mlp.lin1.weight"].shape[0],
        "downsample": width // narrow,
        "mask_channels": state["prompt_encoder.mask_downscaling.4.weight"].shape[0],
        "multimask_outputs": state["mask_decoder.mask_tokens.weight"].shape[0] - 1,
        "iou_width": state[f"{head}.0.weight"].shape[0],
        "iou_layers": count_layers(state, rf"{re.escape(head)}\.(\d+)\."),
    }

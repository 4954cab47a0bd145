"""Box losses, one number a pair of boxes (arXiv 2005.12872, section 3.1)."""

import jax.numpy as jnp

from jaxseg.ops.boxes import cxcywh_to_xyxy, generalized_iou
from jaxseg.typing import Array, Float


def l1(boxes: Float[Array, "*#b c"], targets: Float[Array, "*#b c"]) -> Float[Array, "*#b"]:
    """Sum of the absolute differences of the coordinates."""
    return jnp.abs(boxes - targets).sum(-1)


def giou_loss(
    boxes: Float[Array, "*#b 4"], targets: Float[Array, "*#b 4"], epsilon: float = 0.0
) -> Float[Array, "*#b"]:
    """1 − generalised IoU of cxcywh boxes; `epsilon` as in `ops.boxes.generalized_iou`."""
    return 1 - generalized_iou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(targets), epsilon)

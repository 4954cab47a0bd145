"""Non-maximum suppression on the device."""

import jax
import jax.numpy as jnp

from jaxseg.ops.boxes import iou
from jaxseg.typing import Array, Bool, Float


def nms(
    boxes: Float[Array, "n 4"], scores: Float[Array, " n"], threshold: float
) -> Bool[Array, " n"]:
    """Which xyxy boxes stay: none overlaps a better one that stays by more than `threshold`.

    Greedy, by falling score; of equal scores the first comes first. A score of minus infinity
    (a slot that holds nothing) neither stays nor suppresses.
    """
    if not len(boxes):
        return jnp.zeros(0, bool)
    order = jnp.argsort(-scores, stable=True)
    ordered, real = boxes[order], jnp.isfinite(scores[order])
    overlaps = iou(ordered[:, None], ordered[None]) > threshold

    def visit(i, keep):
        # Only boxes after i can fall to it, and only if it stands itself.
        falls = overlaps[i] & (jnp.arange(len(keep)) > i) & keep[i]
        return keep & ~falls

    keep = jax.lax.fori_loop(0, len(boxes), visit, real)
    return jnp.zeros_like(real).at[order].set(keep)

"""Mask losses, one number a mask (arXiv 2005.12872, section 4.4; dice: arXiv 1606.04797)."""

import jax
import jax.numpy as jnp

from jaxseg.losses.classification import sigmoid_focal
from jaxseg.typing import Array, Float


def mask_focal(logits: Float[Array, "*b h w"], targets: Float[Array, "*b h w"]):
    """Mean over pixels of the sigmoid focal loss, α 0.25 and γ 2."""
    return sigmoid_focal(logits, targets).mean((-2, -1))


def dice(
    logits: Float[Array, "*b h w"], targets: Float[Array, "*b h w"], smooth: float = 1.0
) -> Float[Array, "*b"]:
    """1 − (2 Σ p t + smooth) / (Σ p + Σ t + smooth), p the sigmoid of the logits."""
    probability = jax.nn.sigmoid(logits.astype(jnp.float32))
    shared = (probability * targets).sum((-2, -1))
    total = probability.sum((-2, -1)) + targets.sum((-2, -1))
    return 1 - (2 * shared + smooth) / (total + smooth)

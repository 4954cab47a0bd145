"""From probabilities of tokens to those of classes, as COCO and LVIS are scored."""

import jax
import jax.numpy as jnp

from jaxseg.models.detr.heads import best_pairs
from jaxseg.structures import Detections, DetectorOutput
from jaxseg.typing import Array, Bool, Float, Int

EPSILON = 1e-6


def class_shares(tokens: Bool[Array, "*b k s"] | Float[Array, "*b k s"]) -> Float[Array, "*b k s"]:
    """How much each token counts for each class: what names it, in equal shares.

    A class that no token names has no share, and so never a score.
    """
    tokens = jnp.asarray(tokens, jnp.float32)
    return tokens / (tokens.sum(-1, keepdims=True) + EPSILON)


def class_scores(
    logits: Float[Array, "b q s"], shares: Float[Array, "b k s"] | Float[Array, "k s"]
) -> Float[Array, "b q k"]:
    """The mean probability of the tokens that name a class."""
    probabilities = jax.nn.sigmoid(logits.astype(jnp.float32))
    shares = jnp.broadcast_to(shares, (len(logits), *shares.shape[-2:]))
    return jnp.einsum("bqs,bks->bqk", probabilities, shares)


def class_detections(
    output: DetectorOutput,
    shares: Float[Array, "b k s"] | Float[Array, "k s"],
    original_sizes: Int[Array, "b 2"],
    count: int = 300,
) -> Detections:
    """The last layer's `count` best pairs of query and class.

    Boxes are xyxy in pixels of `original_sizes` (h, w), not clipped.

    Args:
      shares: as `class_shares` makes them; of tokens as many as the logits have.
    """
    scores = class_scores(output.logits[-1], shares)
    return best_pairs(scores, output.boxes[-1], original_sizes, count)

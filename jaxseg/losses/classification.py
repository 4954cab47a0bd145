"""Class losses, one number an element."""

import jax
import jax.numpy as jnp

from jaxseg.typing import Array, Float, Int


def softmax_cross_entropy(
    logits: Float[Array, "*b k"], labels: Int[Array, "*b"]
) -> Float[Array, "*b"]:
    """−log softmax(logits)[label], in float32."""
    log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32))
    return -jnp.take_along_axis(log_probabilities, labels[..., None], -1)[..., 0]


def sigmoid_focal(
    logits: Float[Array, "*b"],
    targets: Float[Array, "*b"],
    alpha: float = 0.25,
    gamma: float = 2.0,
) -> Float[Array, "*b"]:
    """Focal loss of independent sigmoids (arXiv 1708.02002, equation 5), in float32."""
    logits = logits.astype(jnp.float32)
    # log sigmoid keeps large logits finite where log(sigmoid(x)) would not
    cross_entropy = -targets * jax.nn.log_sigmoid(logits)
    cross_entropy -= (1 - targets) * jax.nn.log_sigmoid(-logits)
    probability = jax.nn.sigmoid(logits)
    wrong = probability * (1 - targets) + (1 - probability) * targets
    weight = alpha * targets + (1 - alpha) * (1 - targets)
    return weight * wrong**gamma * cross_entropy

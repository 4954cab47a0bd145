"""Multi-head attention as in "Attention is all you need" (arXiv 1706.03762), section 3.2."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxseg.nn.dropout import Dropout
from jaxseg.nn.initializers import packed_xavier_uniform, xavier_uniform
from jaxseg.typing import Array, Bool, DTypeLike, Float

# Finite, so that a row whose keys are all masked (the rows that fill up a batch) stays finite;
# exp of it is exactly 0 beside any real score.
MASKED = -1e30


def attend(
    query: Float[Array, "b q m d"],
    key: Float[Array, "b n m d"],
    value: Float[Array, "b n m e"],
    *,
    key_mask: Bool[Array, "b n"] | None = None,
    attention_mask: Bool[Array, "b q n"] | None = None,
    drop: Callable = lambda weights: weights,
) -> Float[Array, "b q m*e"]:
    """Scaled dot-product attention of m heads, joined; softmax in float32.

    Args:
      key_mask, attention_mask: True where attention may go.
      drop: applied to the weights.
    """
    scores = jnp.einsum("bqmd,bnmd->bmqn", query * query.shape[-1] ** -0.5, key)
    scores = scores.astype(jnp.float32)
    if key_mask is not None:
        scores = jnp.where(key_mask[:, None, None, :], scores, MASKED)
    if attention_mask is not None:
        scores = jnp.where(attention_mask[:, None], scores, MASKED)
    weights = drop(jax.nn.softmax(scores).astype(value.dtype))
    mixed = jnp.einsum("bmqn,bnme->bqme", weights, value)
    return mixed.reshape(*mixed.shape[:2], -1)


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention with separate projections of q, k and v.

    Attributes:
      num_heads: must divide the width of the query.
      dropout: rate on the attention weights (rng "dropout" when `train`).
      kernel_init: of all four projections, if another than torch's.
    """

    num_heads: int
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    kernel_init: Callable | None = None

    @nn.compact
    def __call__(
        self,
        query: Float[Array, "b q d"],
        key: Float[Array, "b n d"],
        value: Float[Array, "b n d"],
        *,
        key_mask: Bool[Array, "b n"] | None = None,
        attention_mask: Bool[Array, "b q n"] | None = None,
        train: bool = False,
    ) -> Float[Array, "b q d"]:
        """Attend from `query` to `key`; the masks are True where attention may go."""
        width = query.shape[-1]
        if width % self.num_heads:
            raise ValueError(
                f"the attention width must be a multiple of the number of heads; got width "
                f"{width} and {self.num_heads} heads"
            )
        head_dim = width // self.num_heads

        def heads(name, x):
            y = self._dense(name, width, packed_xavier_uniform)(x)
            return y.reshape(*x.shape[:-1], self.num_heads, head_dim)

        mixed = attend(
            heads("q_proj", query),
            heads("k_proj", key),
            heads("v_proj", value),
            key_mask=key_mask,
            attention_mask=attention_mask,
            drop=lambda weights: Dropout(self.dropout)(weights, train=train),
        )
        return self._dense("out_proj", width, xavier_uniform)(mixed)

    def _dense(self, name, features, kernel_init):
        return nn.Dense(
            features,
            kernel_init=self.kernel_init or kernel_init,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name=name,
        )

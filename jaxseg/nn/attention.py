"""Multi-head attention as in "Attention is all you need" (arXiv 1706.03762), section 3.2."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxseg.nn.dropout import Dropout
from jaxseg.nn.initializers import packed_xavier_uniform, xavier_uniform
from jaxseg.typing import Array, Bool, DTypeLike, Float

# Finite, so that a row whose keys are all masked (the rows that fill up a batch) stays finite;
# exp of it is exactly 0 beside any real score.
MASKED = -1e30


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention with separate projections of q, k and v.

    Attributes:
      num_heads: must divide the width of the query.
      dropout: rate on the attention weights (rng "dropout" when `train`).
    """

    num_heads: int
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

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

        q = heads("q_proj", query) * head_dim**-0.5  # b q heads head_dim
        k, v = heads("k_proj", key), heads("v_proj", value)
        scores = jnp.einsum("bqhd,bnhd->bhqn", q, k).astype(jnp.float32)
        if key_mask is not None:
            scores = jnp.where(key_mask[:, None, None, :], scores, MASKED)
        if attention_mask is not None:
            scores = jnp.where(attention_mask[:, None], scores, MASKED)
        weights = jax.nn.softmax(scores).astype(self.dtype)
        weights = Dropout(self.dropout)(weights, train=train)
        mixed = jnp.einsum("bhqn,bnhd->bqhd", weights, v).reshape(query.shape)
        return self._dense("out_proj", width, xavier_uniform)(mixed)

    def _dense(self, name, features, kernel_init):
        return nn.Dense(
            features,
            kernel_init=kernel_init,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name=name,
        )

"""BERT (arXiv 1810.04805): a transformer over word pieces that normalises after each branch."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxseg.nn.attention import MultiHeadAttention
from jaxseg.nn.dropout import Dropout
from jaxseg.nn.layers import layer_norm
from jaxseg.typing import Array, Bool, DTypeLike, Float, Int

normal = nn.initializers.normal(0.02)


class Encoding(NamedTuple):
    """What BERT makes of token ids.

    Attributes:
      hidden: the embeddings after their norm, then the states after each layer.
      pooled: of the first token; None without a pooler.
    """

    hidden: Float[Array, "l b s c"]
    pooled: Float[Array, "b c"] | None

    @property
    def last(self) -> Float[Array, "b s c"]:
        """The states after the last layer."""
        return self.hidden[-1]


class Bert(nn.Module):
    """The encoder; its fields' values are those of bert-base-uncased.

    Attributes:
      positions, token_types: how many the embeddings know.
      dropout: rate on embeddings, attention weights and residual branches (rng "dropout").
      pooler: whether there is one, a dense layer on the first token.
    """

    num_layers: int = 12
    width: int = 768
    num_heads: int = 12
    mlp_width: int = 3072
    vocabulary: int = 30522
    positions: int = 512
    token_types: int = 2
    dropout: float = 0.1
    epsilon: float = 1e-12
    pooler: bool = True
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        ids: Int[Array, "b s"],
        mask: Bool[Array, "b s"] | Bool[Array, "b s s"],
        positions: Int[Array, "b s"] | None = None,
        token_types: Int[Array, "b s"] | None = None,
        *,
        train: bool = False,
    ) -> Encoding:
        """Encode tokens.

        Args:
          mask: True on the tokens that all may attend, or where the token of the row may attend
            that of the column. A token that may attend none takes the mean of all.
          positions: 0, 1, … where None.
          token_types: 0 where None.

        Raises:
          ValueError: more tokens than there are positions to count them by.
        """
        length = ids.shape[1]
        if positions is None and length > self.positions:
            raise ValueError(
                f"this BERT counts at most {self.positions} tokens; got {length}: cut the texts, "
                "or hand in positions that begin again in every phrase"
            )
        if positions is None:
            positions = jnp.broadcast_to(jnp.arange(length), ids.shape)
        if token_types is None:
            token_types = jnp.zeros_like(ids)
        common = {"epsilon": self.epsilon, "dtype": self.dtype, "param_dtype": self.param_dtype}
        x = Embeddings(
            self.width, self.vocabulary, self.positions, self.token_types, self.dropout,
            name="embeddings", **common,
        )(ids, positions, token_types, train=train)  # fmt: skip
        hidden = [x]
        for i in range(self.num_layers):
            layer = Layer(self.num_heads, self.mlp_width, self.dropout, name=f"layer_{i}", **common)
            hidden.append(layer(hidden[-1], mask, train=train))
        return Encoding(jnp.stack(hidden), self._pool(hidden[-1][:, 0]) if self.pooler else None)

    def _pool(self, first):
        return jnp.tanh(_dense(self.width, "pooler", self)(first))


class Embeddings(nn.Module):
    """The sum of word, position and token type, normalised."""

    width: int
    vocabulary: int
    positions: int
    token_types: int
    dropout: float
    epsilon: float = 1e-12
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        ids: Int[Array, "b s"],
        positions: Int[Array, "b s"],
        token_types: Int[Array, "b s"],
        *,
        train: bool = False,
    ) -> Float[Array, "b s c"]:
        x = self._embed("word", self.vocabulary)(ids)
        x = x + self._embed("token_type", self.token_types)(token_types)
        x = x + self._embed("position", self.positions)(positions)
        return Dropout(self.dropout)(_norm("norm", self)(x), train=train)

    def _embed(self, name, count):
        return nn.Embed(
            count, self.width, embedding_init=normal, dtype=self.dtype,
            param_dtype=self.param_dtype, name=name,
        )  # fmt: skip


class Layer(nn.Module):
    """Self-attention, then two linear layers; each branch is added and then normalised."""

    num_heads: int
    mlp_width: int
    dropout: float
    epsilon: float = 1e-12
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b s c"],
        mask: Bool[Array, "b s"] | Bool[Array, "b s s"],
        *,
        train: bool = False,
    ) -> Float[Array, "b s c"]:
        masks = {"key_mask" if mask.ndim == 2 else "attention_mask": mask}
        attention = MultiHeadAttention(
            self.num_heads, self.dropout, kernel_init=normal, dtype=self.dtype,
            param_dtype=self.param_dtype, name="attn",
        )  # fmt: skip
        y = attention(x, x, x, train=train, **masks)
        x = _norm("norm1", self)(x + Dropout(self.dropout)(y, train=train))
        y = jax.nn.gelu(_dense(self.mlp_width, "linear1", self)(x), approximate=False)
        y = _dense(x.shape[-1], "linear2", self)(y)
        return _norm("norm2", self)(x + Dropout(self.dropout)(y, train=train))


def _dense(features, name, module):
    return nn.Dense(
        features, kernel_init=normal, dtype=module.dtype, param_dtype=module.param_dtype, name=name
    )


def _norm(name, module):
    return layer_norm(
        name, epsilon=module.epsilon, dtype=module.dtype, param_dtype=module.param_dtype
    )

"""The two-way transformer of Segment Anything's mask decoder (arXiv 2304.02643, section A, figure
14): tokens attend to the image, and the image to the tokens.

Tokens are those of p sets of prompts of an image. Keys, the positions of the image's map, may be
one map for all sets (p = 1) until they have seen the tokens.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxseg.nn.attention import MASKED
from jaxseg.nn.dropout import Dropout
from jaxseg.nn.layers import Mlp, layer_norm, torch_dense
from jaxseg.typing import Array, Bool, DTypeLike, Float


class Attention(nn.Module):
    """Multi-head attention at a width of its own.

    Attributes:
      width: of queries, keys and values; of the result it is that of the query.
      dropout: rate on the result (rng "dropout" when `train`).
    """

    num_heads: int
    width: int
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        query: Float[Array, "b _p q d"],
        key: Float[Array, "b _r n d"],
        value: Float[Array, "b _r n d"],
        *,
        key_mask: Bool[Array, "b _r n"] | None = None,
        train: bool = False,
    ) -> Float[Array, "b _s q d"]:
        """Attend from `query` to `key`; the mask is True where attention may go."""
        if self.width % self.num_heads:
            raise ValueError(
                f"the attention width must be a multiple of the number of heads; got width "
                f"{self.width} and {self.num_heads} heads"
            )
        head = self.width // self.num_heads
        dtypes = (self.dtype, self.param_dtype)

        def heads(name, x):
            y = torch_dense(self.width, x.shape[-1], name, *dtypes)(x)
            return y.reshape(*x.shape[:-1], self.num_heads, head)

        q, k, v = heads("q_proj", query), heads("k_proj", key), heads("v_proj", value)
        scores = jnp.einsum("bpqmd,bpnmd->bpmqn", *_alike(q * head**-0.5, k))
        scores = scores.astype(jnp.float32)
        if key_mask is not None:
            scores = jnp.where(key_mask[:, :, None, None, :], scores, MASKED)
        weights = jax.nn.softmax(scores).astype(self.dtype)
        mixed = jnp.einsum("bpmqn,bpnmd->bpqmd", *_alike(weights, v))
        mixed = mixed.reshape(*mixed.shape[:3], self.width)
        mixed = torch_dense(query.shape[-1], self.width, "out_proj", *dtypes)(mixed)
        return Dropout(self.dropout)(mixed, train=train)


def _alike(x, y):
    """The same number of sets in both."""
    sets = max(x.shape[1], y.shape[1])
    return (jnp.broadcast_to(a, (a.shape[0], sets, *a.shape[2:])) for a in (x, y))


class TwoWayLayer(nn.Module):
    """Tokens among themselves, tokens to image, a perceptron, image to tokens.

    Attributes:
      first: the layer before which there is nothing to add to: its tokens attend to each other
        without positions, and are replaced.
      downsample: how many times narrower the attentions between tokens and image are.
      epsilon: of the norms; Hugging Face's configs have 1e-6.
    """

    num_heads: int = 8
    feedforward: int = 2048
    downsample: int = 2
    first: bool = False
    dropout: float = 0.0
    epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        queries: Float[Array, "b p t d"],
        keys: Float[Array, "b _p n d"],
        query_position: Float[Array, "b p t d"],
        key_position: Float[Array, "_b _p n d"],
        real: Bool[Array, "b p t"] | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "b p t d"], Float[Array, "b p n d"]]:
        """Tokens and the image's positions after the layer."""
        d = queries.shape[-1]
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}

        def attention(name, width):
            return Attention(self.num_heads, width, self.dropout, name=name, **dtypes)

        def norm(n):
            return layer_norm(f"norm{n}", epsilon=self.epsilon, **dtypes)

        placed = queries if self.first else queries + query_position
        own = attention("self_attn", d)(placed, placed, queries, key_mask=real, train=train)
        queries = norm(1)(own if self.first else queries + own)

        narrow, image = d // self.downsample, keys + key_position
        seen = attention("cross_attn_token_to_image", narrow)(
            queries + query_position, image, keys, train=train
        )
        queries = norm(2)(queries + seen)

        mlp = Mlp((self.feedforward, d), name="mlp", **dtypes)(queries)
        queries = norm(3)(queries + Dropout(self.dropout)(mlp, train=train))

        told = attention("cross_attn_image_to_token", narrow)(
            image, queries + query_position, queries, key_mask=real, train=train
        )
        return queries, norm(4)(keys + told)


class TwoWayTransformer(nn.Module):
    """Layers in which tokens and image tell each other, and a last look of the tokens.

    Attributes:
      num_layers: 2; the model that made SA-1B had 3.
      dropout: 0.1 in the paper's training, after attentions and perceptrons.
      epsilon: of the layers' norms; that of the last norm is 1e-5.
    """

    num_layers: int = 2
    num_heads: int = 8
    feedforward: int = 2048
    downsample: int = 2
    dropout: float = 0.0
    epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        tokens: Float[Array, "b p t d"],
        image: Float[Array, "b _p n d"],
        position: Float[Array, "_b _p n d"],
        real: Bool[Array, "b p t"] | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "b p t d"], Float[Array, "b p n d"]]:
        """Tokens, and the image's positions as each set of tokens has changed them.

        Args:
          tokens: they are their own positions, too.
          image, position: of the map, row by row.
          real: False on tokens that only fill up a set.
        """
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        queries, keys = tokens, image
        for i in range(self.num_layers):
            queries, keys = TwoWayLayer(
                self.num_heads, self.feedforward, self.downsample, i == 0, self.dropout,
                self.epsilon,
                name=f"layer_{i}", **dtypes,
            )(queries, keys, tokens, position, real, train)  # fmt: skip
        width = tokens.shape[-1] // self.downsample
        seen = Attention(
            self.num_heads, width, self.dropout, name="final_attn_token_to_image", **dtypes
        )(queries + tokens, keys + position, keys, train=train)
        return layer_norm("norm_final_attn", **dtypes)(queries + seen), keys

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
from jaxseg.nn.initializers import torch_bias, torch_uniform
from jaxseg.nn.layers import Mlp, layer_norm
from jaxseg.typing import Array, Bool, DTypeLike, Float


class Linear(nn.Module):
    """Kernel and bias of a linear layer, for products in the order that suits them."""

    features: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, fan_in: int) -> tuple[Float[Array, "_c d"], Float[Array, " d"]]:
        shape = (fan_in, self.features)
        kernel = self.param("kernel", torch_uniform, shape, self.param_dtype)
        bias = self.param("bias", torch_bias(fan_in), (self.features,), self.param_dtype)
        return jnp.asarray(kernel, self.dtype), jnp.asarray(bias, self.dtype)


class Attention(nn.Module):
    """Multi-head attention at a width of its own.

    An image has thousands of positions and a set a few tokens. So the projections of positions
    are left to the tokens: a token's query, brought back through the keys' kernel, meets the
    positions themselves, and what it sees is projected afterwards. These are the same numbers,
    less than half as many operations as long as tokens times heads are fewer than the width. One
    map that serves all sets is projected once instead.

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
        d, dtypes = query.shape[-1], (self.dtype, self.param_dtype)
        linear = {
            part: Linear(self.width, *dtypes, name=f"{part}_proj")(d) for part in ("q", "k", "v")
        }
        out = Linear(d, *dtypes, name="out_proj")(self.width)
        scores = self._scores(query, key, linear["q"], linear["k"]).astype(jnp.float32)
        if key_mask is not None:
            scores = jnp.where(key_mask[:, :, None, None, :], scores, MASKED)
        weights = jax.nn.softmax(scores).astype(self.dtype)
        mixed = self._mixed(query, value, weights, linear["v"], out)
        return Dropout(self.dropout)(mixed, train=train)

    def _scores(self, query, key, of_query, of_key):
        """Of each head, (b, p, m, q, n)."""
        scale = (self.width // self.num_heads) ** -0.5
        if self._is_few(query, key) and not _serves_all(key, query):
            # The keys' bias adds the same to all scores of a query, which a softmax does not see.
            q = self._project(query, of_query) * scale
            back = jnp.einsum("bpqmh,cmh->bpqmc", q, self._split(of_key[0]))
            return jnp.einsum("bpqmc,bpnc->bpmqn", back, key)
        if self._is_few(key, query) and not _serves_all(query, key):
            k = self._project(key, of_key) * scale
            back = jnp.einsum("bpnmh,cmh->bpnmc", k, self._split(of_query[0]))
            scores = jnp.einsum("bpqc,bpnmc->bpmqn", query, back)
            bias = of_query[1].reshape(self.num_heads, -1)
            return scores + jnp.einsum("bpnmh,mh->bpmn", k, bias)[..., None, :]
        q, k = self._project(query, of_query) * scale, self._project(key, of_key)
        if _serves_all(key, query):
            return jnp.einsum("bpqmh,bnmh->bpmqn", q, k[:, 0])
        if _serves_all(query, key):
            return jnp.einsum("bqmh,bpnmh->bpmqn", q[:, 0], k)
        return jnp.einsum("bpqmh,bpnmh->bpmqn", q, k)

    def _mixed(self, query, value, weights, of_value, out):
        """What the weights make of the values, projected back: (b, p, q, d)."""
        kernel, bias = out
        by_head = kernel.reshape(self.num_heads, -1, kernel.shape[-1])
        if self._is_few(query, value) and not _serves_all(value, query):
            mixed = jnp.einsum("bpmqn,bpnc->bpqmc", weights, value)
            mixed = jnp.einsum("bpqmc,cmh->bpqmh", mixed, self._split(of_value[0]))
            mixed += of_value[1].reshape(self.num_heads, -1)
            return jnp.einsum("bpqmh,mhd->bpqd", mixed, by_head) + bias
        v = self._project(value, of_value)
        if self._is_few(value, query):
            ready = jnp.einsum("bpnmh,mhd->bpnmd", v, by_head)
            return jnp.einsum("bpmqn,bpnmd->bpqd", weights, ready) + bias
        if _serves_all(value, query):
            mixed = jnp.einsum("bpmqn,bnmh->bpqmh", weights, v[:, 0])
        else:
            mixed = jnp.einsum("bpmqn,bpnmh->bpqmh", weights, v)
        return jnp.einsum("bpqmh,mhd->bpqd", mixed, by_head) + bias

    def _is_few(self, tokens, others) -> bool:
        """Whether there are so few that others are better not projected for them."""
        count, other = tokens.shape[2], others.shape[2]
        if not (isinstance(count, int) and isinstance(other, int)):
            # An exported program's prompts have any number of tokens, a map never.
            return isinstance(other, int)
        return count < other and count * self.num_heads < self.width

    def _project(self, x, linear):
        kernel, bias = linear
        y = jnp.einsum("bpnc,cd->bpnd", x, kernel) + bias
        return y.reshape(*y.shape[:3], self.num_heads, -1)

    def _split(self, kernel):
        return kernel.reshape(kernel.shape[0], self.num_heads, -1)


def _serves_all(x, others) -> bool:
    """Whether there is one for all sets."""
    one, sets = x.shape[1], others.shape[1]
    # Of an exported program's sets there may be any number; that is right for one, too.
    return isinstance(one, int) and one == 1 and (not isinstance(sets, int) or sets > 1)


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

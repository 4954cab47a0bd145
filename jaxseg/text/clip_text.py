"""CLIP's text encoder (arXiv 2103.00020, section 2.4) and the block that both its towers are of."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxseg.nn.attention import MultiHeadAttention
from jaxseg.nn.layers import layer_norm
from jaxseg.nn.vision import dense
from jaxseg.structures import TextFeatures
from jaxseg.typing import Array, Bool, DTypeLike, Float, Int


def quick_gelu(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """The sigmoid form of the GELU (arXiv 1606.08415, section 2), which CLIP was trained with."""
    return x * jax.nn.sigmoid(1.702 * x)


def exact_gelu(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """The GELU itself, which others trained CLIP with."""
    return nn.gelu(x, approximate=False)


class ClipBlock(nn.Module):
    """Attention and a perceptron, each normalised before and added to its input.

    Attributes:
      mlp_ratio: width of the perceptron's hidden layer to that of the tokens.
      activation: of the perceptron.
      epsilon: of the norms.
    """

    num_heads: int
    mlp_ratio: float = 4.0
    activation: Callable = quick_gelu
    epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], mask: Bool[Array, "#b n n"] | None = None
    ) -> Float[Array, "b n d"]:
        """Transform tokens; `mask` is True where the row may attend to the column."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        width = x.shape[-1]
        mask = None if mask is None else jnp.broadcast_to(mask, (len(x), *mask.shape[1:]))
        y = layer_norm("norm1", epsilon=self.epsilon, **dtypes)(x)
        x = x + MultiHeadAttention(self.num_heads, **dtypes, name="attn")(
            y, y, y, attention_mask=mask
        )
        y = layer_norm("norm2", epsilon=self.epsilon, **dtypes)(x)
        y = self.activation(dense(int(self.mlp_ratio * width), "linear1", **dtypes)(y))
        return x + dense(width, "linear2", **dtypes)(y)


class ClipText(nn.Module):
    """A causal transformer whose answer stands where the text ends.

    Attributes:
      width, depth, num_heads: of the blocks.
      features: width of the embedding.
      context: tokens of the longest text.
      vocabulary: number of tokens; the last one ends a text.
      mlp_ratio, activation, epsilon: of the blocks.
    """

    width: int = 512
    depth: int = 12
    num_heads: int = 8
    features: int = 512
    context: int = 77
    vocabulary: int = 49408
    mlp_ratio: float = 4.0
    activation: Callable = quick_gelu
    epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, ids: Int[Array, "m s"]) -> TextFeatures:
        """Encode texts.

        Args:
          ids: as `BytePairs` makes them. What stands behind a text's end changes nothing, so rows
            may be cut to the longest.

        Raises:
          ValueError: rows that are longer than the context.
        """
        count = ids.shape[1]
        if count > self.context:
            raise ValueError(
                f"texts have at most {self.context} tokens; got rows of {count}: tokenise them "
                f"with context={self.context}"
            )
        x = self._embed(ids)
        causal = jnp.tri(count, dtype=bool)[None]
        hidden = []
        for i in range(self.depth):
            x = ClipBlock(
                self.num_heads,
                self.mlp_ratio,
                self.activation,
                self.epsilon,
                self.dtype,
                self.param_dtype,
                name=f"block_{i}",
            )(x, causal)
            hidden.append(x)
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        # The end of a text is its largest id; padding behind it may repeat it.
        end = jnp.argmax(ids, axis=-1)
        x = jnp.take_along_axis(x, end[:, None, None], axis=1)[:, 0]
        x = layer_norm("norm_final", epsilon=self.epsilon, **dtypes)(x)
        return TextFeatures(projection(self.features, **dtypes)(x), jnp.stack(hidden))

    def _embed(self, ids: Int[Array, "m s"]) -> Float[Array, "m s {self.width}"]:
        tokens = nn.Embed(
            self.vocabulary,
            self.width,
            embedding_init=nn.initializers.normal(0.02),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="token_embed",
        )(ids)
        shape = (self.context, self.width)
        positions = self.param(
            "position_embed", nn.initializers.normal(0.01), shape, self.param_dtype
        )
        return tokens + positions[: ids.shape[1]].astype(self.dtype)


def projection(features: int, dtype: DTypeLike, param_dtype: DTypeLike) -> nn.Dense:
    """The linear map `proj` into the embedding that images and texts share, without a bias."""
    return nn.Dense(
        features,
        use_bias=False,
        kernel_init=nn.initializers.variance_scaling(1.0, "fan_in", "normal"),
        dtype=dtype,
        param_dtype=param_dtype,
        name="proj",
    )

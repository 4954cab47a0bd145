"""Where image and words read each other (Grounding DINO, arXiv 2303.05499, section 3.1; GLIP)."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxseg.nn.attention import MASKED
from jaxseg.nn.initializers import xavier_uniform
from jaxseg.nn.layers import layer_norm
from jaxseg.nn.vision import DropPath
from jaxseg.typing import Array, Bool, DTypeLike, Float

LIMIT = 50000.0  # how far below the best a score may lie
SCALE = 1e-4  # what a new block adds of the other side


class Fusion(nn.Module):
    """One matrix of scores, read by the image along its rows and by the words along its columns.

    The residuals start from the normed values, as in the original.

    Attributes:
      num_heads, width: of the attention, whose inputs are narrower.
      drop_path: rate of leaving a side as it is, for each image and side on its own.
    """

    num_heads: int = 4
    width: int = 1024
    drop_path: float = 0.1
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        image: Float[Array, "b n d"],
        text: Float[Array, "b s d"],
        mask: Bool[Array, "b n"],
        text_mask: Bool[Array, "b s"],
        exact: bool = False,
        train: bool = False,
    ) -> tuple[Float[Array, "b n d"], Float[Array, "b s d"]]:
        """Both sides after reading the other.

        Args:
          mask, text_mask: True on real tokens.
          exact: scores are bounded by each image's own best one, not by that of the batch.
        """
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        image = layer_norm("layer_norm_v", **dtypes)(image)
        text = layer_norm("layer_norm_l", **dtypes)(text)
        attention = BiAttention(self.num_heads, self.width, **dtypes, name="attn")
        seen, said = attention(image, text, mask, text_mask, exact)

        def add(x, change, name):
            scale = self.param(
                name, nn.initializers.constant(SCALE), x.shape[-1:], self.param_dtype
            )
            return x + DropPath(self.drop_path)(scale.astype(x.dtype) * change, train=train)

        return add(image, seen, "gamma_v"), add(text, said, "gamma_l")


class BiAttention(nn.Module):
    """What the image reads in the words, and the words in the image."""

    num_heads: int = 4
    width: int = 1024
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        image: Float[Array, "b n d"],
        text: Float[Array, "b s d"],
        mask: Bool[Array, "b n"],
        text_mask: Bool[Array, "b s"],
        exact: bool = False,
    ) -> tuple[Float[Array, "b n d"], Float[Array, "b s d"]]:
        """Changes of both sides; arguments as in `Fusion`."""
        if self.width % self.num_heads:
            raise ValueError(
                f"the width of a fusion must be a multiple of its number of heads; got width "
                f"{self.width} and {self.num_heads} heads"
            )
        head_dim = self.width // self.num_heads

        def heads(name, x):
            y = self._dense(name, self.width)(x)
            return y.reshape(*x.shape[:-1], self.num_heads, head_dim)

        def joined(name, x, width):
            return self._dense(name, width)(x.reshape(*x.shape[:2], -1))

        query = heads("v_proj", image) * head_dim**-0.5
        scores = jnp.einsum("bnmd,bsmd->bmns", query, heads("l_proj", text)).astype(jnp.float32)
        best = jax.lax.stop_gradient(_best(scores, mask, text_mask, exact))
        # Far below the best, scores become equal: a bound of half precision that all share.
        scores = jnp.maximum(scores - best, -LIMIT)

        to_image = jnp.where(text_mask[:, None, None], scores, MASKED)
        seen = mask[:, None, :, None] if exact else None  # the original's maximum is of padding too
        highest = scores.max(2, keepdims=True, where=seen, initial=-LIMIT)
        to_text = jnp.maximum(scores - highest, -LIMIT)
        to_text = jnp.where(mask[:, None, :, None], to_text, MASKED)
        to_image = jax.nn.softmax(to_image, 3).astype(self.dtype)
        to_text = jax.nn.softmax(to_text, 2).astype(self.dtype)
        seen = jnp.einsum("bmns,bsmd->bnmd", to_image, heads("values_l_proj", text))
        said = jnp.einsum("bmns,bnmd->bsmd", to_text, heads("values_v_proj", image))
        return (
            joined("out_v_proj", seen, image.shape[-1]),
            joined("out_l_proj", said, text.shape[-1]),
        )

    def _dense(self, name, features):
        return nn.Dense(
            features,
            kernel_init=xavier_uniform,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name=name,
        )


def _best(scores, mask, text_mask, exact):
    """The largest score of the batch, padding included, or of each image's real tokens."""
    if not exact:
        return scores.max()
    real = mask[:, None, :, None] & text_mask[:, None, None]
    best = jnp.max(scores, (1, 2, 3), keepdims=True, where=real, initial=-jnp.inf)
    return jnp.where(jnp.isfinite(best), best, 0)


class Apart(nn.Module):
    """No fusion: image and words pass by each other (a row of the paper's ablations).

    It takes the fields of `Fusion` and uses none.
    """

    num_heads: int = 4
    width: int = 1024
    drop_path: float = 0.1
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        image: Float[Array, "b n d"],
        text: Float[Array, "b s d"],
        mask: Bool[Array, "b n"],
        text_mask: Bool[Array, "b s"],
        exact: bool = False,
        train: bool = False,
    ) -> tuple[Float[Array, "b n d"], Float[Array, "b s d"]]:
        """Both sides as they are."""
        del mask, text_mask, exact, train
        return image, text

"""Where a decoder's queries come from: (position, content), or anchor boxes."""

from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxseg.nn.initializers import torch_bias, xavier_uniform
from jaxseg.nn.layers import layer_norm
from jaxseg.nn.position import box_sine_embedding
from jaxseg.typing import Array, DTypeLike, Float

Queries = tuple[Float[Array, "b q d"], Float[Array, "b q d"]]
Anchors = Literal["normal", "uniform", "fixed"]
_unit_normal = nn.initializers.normal(1.0)


def learned_rows(
    model: nn.Module,
    name: str,
    rows: int,
    width: int,
    init: Callable = _unit_normal,
    dtype: DTypeLike | None = None,
) -> Float[Array, "{rows} {width}"]:
    """All rows of a table that `model` learns under a name; None is the model's dtype."""
    dtypes = {"dtype": dtype or model.dtype, "param_dtype": model.param_dtype}
    return nn.Embed(rows, width, embedding_init=init, name=name, **dtypes)(jnp.arange(rows))


def learned_boxes(model: nn.Module, count: int) -> Float[Array, "{count} 4"]:
    """Boxes that `model` learns in place of proposals (its parameter `refpoint_embed`)."""
    return jax.nn.sigmoid(
        learned_rows(model, "refpoint_embed", count, 4, xavier_uniform, jnp.float32)
    )


def learned_queries(model: nn.Module, count: int, b: int) -> Queries:
    """One embedding of `model` holds both, position first (its parameter `query_embed`)."""
    both = learned_rows(model, "query_embed", count, 2 * model.width)
    both = jnp.broadcast_to(both, (b, *both.shape))
    return both[..., : model.width], both[..., model.width :]


def anchor_logits(model: nn.Module, count: int, kind: Anchors) -> Float[Array, "{count} 4"]:
    """The learned anchors of `model` (its parameter `refpoint_embed`) as logits, in float32."""
    if kind not in get_args(Anchors):
        raise ValueError(f"anchors must be one of {', '.join(get_args(Anchors))}; got {kind!r}")

    def init(key, shape, dtype=jnp.float32):
        centres, sizes = jax.random.split(key)
        logits = jax.random.normal(sizes, shape, dtype)
        if kind == "normal":
            return logits
        even = jax.random.uniform(centres, (shape[0], 2), dtype, 1e-3, 1 - 1e-3)
        return logits.at[:, :2].set(jax.scipy.special.logit(even))

    logits = learned_rows(model, "refpoint_embed", count, 4, init, jnp.float32)
    if kind == "fixed":
        centres = jax.lax.stop_gradient(logits[:, :2])
        logits = jnp.concatenate([centres, logits[:, 2:]], -1)
    return logits


class ProposedQueries(nn.Module):
    """Both from the sines of proposed boxes (arXiv 2010.04159, appendix A.4)."""

    width: int = 256
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, reference: Float[Array, "b q 4"]) -> Queries:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        sines = box_sine_embedding(reference, self.width // 2, y_first=False)
        dense = nn.Dense(
            2 * self.width,
            kernel_init=xavier_uniform,
            bias_init=torch_bias(2 * self.width),
            name="pos_trans",
            **dtypes,
        )
        both = layer_norm("pos_trans_norm", **dtypes)(dense(sines))
        return both[..., : self.width], both[..., self.width :]

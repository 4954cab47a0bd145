"""The dense transformer encoder of DETR (arXiv 2005.12872, section 3.2 and appendix A.3)."""

from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn

from jaxseg.nn.attention import MultiHeadAttention
from jaxseg.nn.dropout import Dropout
from jaxseg.nn.initializers import torch_bias, xavier_uniform
from jaxseg.nn.layers import Mlp, layer_norm
from jaxseg.typing import Array, Bool, DTypeLike, Float

# What a stack hands on to each of its layers.
LAYER_FIELDS = (
    "num_heads",
    "feedforward",
    "dropout",
    "activation",
    "pre_norm",
    "dtype",
    "param_dtype",
)


def feed_forward(layer: nn.Module, x: Float[Array, "b n d"], train: bool) -> Float[Array, "b n d"]:
    """`linear1`, activation, dropout, `linear2`, as parameters of `layer` itself."""
    width = x.shape[-1]
    options = {
        "kernel_init": xavier_uniform,
        "dtype": layer.dtype,
        "param_dtype": layer.param_dtype,
    }
    x = nn.Dense(layer.feedforward, bias_init=torch_bias(width), name="linear1", **options)(x)
    activation = layer.activation
    if isinstance(activation, type):  # one with parameters
        activation = activation(param_dtype=layer.param_dtype, name="activation")
    x = Dropout(layer.dropout)(activation(x), train=train)
    bias_init = torch_bias(layer.feedforward)
    return nn.Dense(width, bias_init=bias_init, name="linear2", **options)(x)


class EncoderLayer(nn.Module):
    """Self-attention, then the feed-forward pair; positions enter queries and keys only."""

    num_heads: int = 8
    feedforward: int = 2048
    dropout: float = 0.1
    activation: Callable = nn.relu
    pre_norm: bool = False
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        position: Float[Array, "b n d"],
        mask: Bool[Array, "b n"] | Bool[Array, "b n n"],
        train: bool = False,
    ) -> Float[Array, "b n d"]:
        """One layer; `mask` is True on what all tokens, or each one of its own, may attend."""
        masks = {"key_mask" if mask.ndim == 2 else "attention_mask": mask}

        def attend(x):
            attention = MultiHeadAttention(
                self.num_heads, self.dropout, self.dtype, self.param_dtype, name="self_attn"
            )
            placed = x + position.astype(x.dtype)
            return attention(placed, placed, x, **masks, train=train)

        x = residual(self, x, attend, "norm1", train)
        return residual(self, x, lambda x: feed_forward(self, x, train), "norm2", train)


def residual(layer: nn.Module, x, branch: Callable, norm_name: str, train: bool):
    """x + dropout(branch(x)), normalised after the sum, or before the branch if `pre_norm`."""
    norm = layer_norm(norm_name, dtype=layer.dtype, param_dtype=layer.param_dtype)
    dropout = Dropout(layer.dropout)
    if layer.pre_norm:
        return x + dropout(branch(norm(x)), train=train)
    return norm(x + dropout(branch(x), train=train))


class Encoder(nn.Module):
    """A stack of `EncoderLayer`; the position embedding is added again in every layer.

    Attributes:
      scale_position: multiply positions by what `query_scale`, one for all layers, makes of each
        layer's input (DAB-DETR, arXiv 2201.12329, its code).
    """

    num_layers: int = 6
    num_heads: int = 8
    feedforward: int = 2048
    dropout: float = 0.1
    activation: Callable = nn.relu
    pre_norm: bool = False
    scale_position: bool = False
    remat: bool = False
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        position: Float[Array, "b n d"],
        mask: Bool[Array, "b n"],
        train: bool = False,
    ) -> Float[Array, "b n d"]:
        layer = nn.remat(EncoderLayer, static_argnums=(4,)) if self.remat else EncoderLayer
        fields = {f: getattr(self, f) for f in LAYER_FIELDS}
        if self.scale_position:
            width, dtypes = x.shape[-1], (self.dtype, self.param_dtype)
            query_scale = Mlp((width, width), *dtypes, xavier_uniform, name="query_scale")
        for i in range(self.num_layers):
            placed = position * query_scale(x) if self.scale_position else position
            x = layer(**fields, name=f"layer_{i}")(x, placed, mask, train)
        if self.pre_norm:
            x = layer_norm("norm", dtype=self.dtype, param_dtype=self.param_dtype)(x)
        return x

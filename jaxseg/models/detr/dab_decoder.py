"""The dense decoder of DAB-DETR (arXiv 2201.12329, sections 4.2 to 4.4, figures 4 and 6)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxseg.models.detr.deformable_decoder import Decoded
from jaxseg.models.detr.encoder import feed_forward, residual
from jaxseg.nn.attention import attend
from jaxseg.nn.dropout import Dropout
from jaxseg.nn.initializers import torch_bias, xavier_uniform
from jaxseg.nn.layers import Mlp, layer_norm
from jaxseg.nn.position import box_sine_embedding
from jaxseg.typing import Array, Bool, DTypeLike, Float

LAYER_FIELDS = ("num_heads", "feedforward", "dropout", "activation", "dtype", "param_dtype")


class DabDecoderLayer(nn.Module):
    """Conditional attention: content and position have projections of their own.

    In cross-attention the two stand side by side within each head; only the first layer adds
    position to content as well.
    """

    num_heads: int = 8
    feedforward: int = 2048
    dropout: float = 0.0
    activation: Callable = nn.relu
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    pre_norm = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b q d"],
        query: Float[Array, "b q d"],
        sines: Float[Array, "b q d"],
        memory: Float[Array, "b n d"],
        position: Float[Array, "b n d"],
        mask: Bool[Array, "b n"],
        attention_mask: Bool[Array, "b q q"] | None,
        first: bool,
        train: bool,
    ) -> Float[Array, "b q d"]:
        """One layer.

        Args:
          query: position of the queries.
          sines: of their centres, modulated; what cross-attention compares with `position`.
          first: whether this is the first layer.
        """
        width = x.shape[-1]

        def heads(y):
            return y.reshape(*y.shape[:-1], self.num_heads, -1)

        def attention(name, q, k, v, **masks):
            drop = lambda weights: Dropout(self.dropout)(weights, train=train)  # noqa: E731
            mixed = attend(q, k, heads(v), drop=drop, **masks)
            return self._dense(f"{name}/out_proj", width, zero_bias=True)(mixed)

        def project(name, y):
            return self._dense(f"{name}_proj", width)(y)

        def attend_queries(x):
            q = project("sa_qcontent", x) + project("sa_qpos", query)
            k = project("sa_kcontent", x) + project("sa_kpos", query)
            v = project("sa_v", x)
            return attention("self_attn", heads(q), heads(k), v, attention_mask=attention_mask)

        def attend_memory(x):
            q, k = project("ca_qcontent", x), project("ca_kcontent", memory)
            v, k_position = project("ca_v", memory), project("ca_kpos", position)
            if first:
                q, k = q + project("ca_qpos", query), k + k_position
            q_position = project("ca_qpos_sine", sines)
            q = jnp.concatenate([heads(q), heads(q_position)], -1)
            k = jnp.concatenate([heads(k), heads(k_position)], -1)
            return attention("cross_attn", q, k, v, key_mask=mask)

        x = residual(self, x, attend_queries, "norm1", train)
        x = residual(self, x, attend_memory, "norm2", train)
        return residual(self, x, lambda x: feed_forward(self, x, train), "norm3", train)

    def _dense(self, name, features, zero_bias=False):
        return nn.Dense(
            features,
            kernel_init=xavier_uniform,
            bias_init=nn.initializers.zeros if zero_bias else torch_bias(features),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name=name.replace("/", "_"),
        )


class DabDecoder(nn.Module):
    """A stack of `DabDecoderLayer` around anchor boxes; one norm reads out every layer."""

    num_layers: int = 6
    num_heads: int = 8
    feedforward: int = 2048
    dropout: float = 0.0
    activation: Callable = nn.relu
    remat: bool = False
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b q d"],
        reference: Float[Array, "b q 4"],
        memory: Float[Array, "b n d"],
        position: Float[Array, "b n d"],
        mask: Bool[Array, "b n"],
        refine: Callable,
        attention_mask: Bool[Array, "b q q"] | None = None,
        train: bool = False,
    ) -> Decoded:
        """Decode; `refine` and the masks are as in `DeformableDecoder`."""
        layer = DabDecoderLayer
        if self.remat:
            layer = nn.remat(layer, static_argnums=(8, 9))
        fields = {f: getattr(self, f) for f in LAYER_FIELDS}
        width = x.shape[-1]
        ref_point_head = self._mlp("ref_point_head", width, width)
        query_scale = self._mlp("query_scale", width, width)
        ref_anchor_head = self._mlp("ref_anchor_head", width, 2)
        norm = layer_norm("norm", dtype=self.dtype, param_dtype=self.param_dtype)
        states, references, updates = [], [], []
        for i in range(self.num_layers):
            sines = box_sine_embedding(reference, width // 2, y_first=True)
            query = ref_point_head(sines)
            centre = sines[..., :width]
            scale = query_scale(x)
            centre = centre if i == 0 else centre * scale
            centre = _modulate(centre, jax.nn.sigmoid(ref_anchor_head(x)), reference)
            x = layer(**fields, name=f"layer_{i}")(
                x, query, centre, memory, position, mask, attention_mask, i == 0, train
            )
            states.append(norm(x))
            references.append(reference)
            updates.append(refine(i, x, reference))
            reference = jax.lax.stop_gradient(updates[-1])
        return Decoded(jnp.stack(states), tuple(references), jnp.stack(updates))

    def _mlp(self, name, width, out):
        return Mlp(
            (width, out), self.dtype, self.param_dtype, kernel_init=xavier_uniform, name=name
        )


def _modulate(
    sines: Float[Array, "b q d"], size: Float[Array, "b q 2"], reference: Float[Array, "b q 4"]
) -> Float[Array, "b q d"]:
    """Stretch attention to each anchor's width and height (equation 6); y comes first."""
    ratio = size.astype(jnp.float32) / reference[..., 2:]  # w, h
    y, x = jnp.split(sines, 2, -1)
    return jnp.concatenate([y * ratio[..., 1:], x * ratio[..., :1]], -1)

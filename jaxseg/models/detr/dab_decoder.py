"""The dense decoder of DAB-DETR (arXiv 2201.12329, sections 4.2 to 4.4, figures 4 and 6).

With `LevelsLayer` it reads several levels (DN-DETR, arXiv 2203.01305, table 3, its code).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxseg.kernels.ms_deform_attn import Shapes
from jaxseg.models.detr.deformable_decoder import Decoded
from jaxseg.models.detr.encoder import feed_forward, residual
from jaxseg.models.detr.levels import Encoded
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
        shapes: Shapes,
        attention_mask: Bool[Array, "b q q"] | None,
        first: bool,
        train: bool,
    ) -> Float[Array, "b q d"]:
        """One layer.

        Args:
          query: position of the queries.
          sines: of their centres, modulated; what cross-attention compares with `position`.
          shapes: (h, w) of each level of the memory.
          first: whether this is the first layer.
        """

        def project(name, y):
            return self._dense(f"{name}_proj", y)

        q_self = project("sa_qcontent", x) + project("sa_qpos", query)

        def attend_queries(x):
            k = project("sa_kcontent", x) + project("sa_kpos", query)
            q, k, v = (self._heads(y) for y in (q_self, k, project("sa_v", x)))
            mixed = self._attend(q, k, v, train, attention_mask=attention_mask)
            return self._dense("self_attn_out_proj", mixed, zero_bias=True)

        def attend_memory(x):
            q, k = project("ca_qcontent", x), project("ca_kcontent", memory)
            v, k_position = project("ca_v", memory), project("ca_kpos", position)
            if first:
                q, k = q + project("ca_qpos", query), k + k_position
            q = self._heads(q, project("ca_qpos_sine", sines))
            k, v = self._heads(k, k_position), self._heads(v)
            mixed = self._read(q, k, v, mask, shapes, q_self, train)
            return self._dense("cross_attn_out_proj", mixed, zero_bias=True)

        x = residual(self, x, attend_queries, "norm1", train)
        x = residual(self, x, attend_memory, "norm2", train)
        return residual(self, x, lambda x: feed_forward(self, x, train), "norm3", train)

    def _read(self, q, k, v, mask, shapes, q_self, train) -> Float[Array, "b q d"]:
        """What cross-attention mixes of the memory's values."""
        del shapes, q_self
        return self._attend(q, k, v, train, key_mask=mask)

    def _attend(self, q, k, v, train, **masks):
        drop = lambda weights: Dropout(self.dropout)(weights, train=train)  # noqa: E731
        return attend(q, k, v, drop=drop, **masks)

    def _heads(self, *parts):
        """Parts (b, n, d) side by side within each head."""
        heads = [y.reshape(*y.shape[:-1], self.num_heads, -1) for y in parts]
        return jnp.concatenate(heads, -1)

    def _dense(self, name, x, features=None, zero_bias=False):
        width = x.shape[-1]
        dense = nn.Dense(
            features or width,
            kernel_init=xavier_uniform,
            bias_init=nn.initializers.zeros if zero_bias else torch_bias(width),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name=name,
        )
        return dense(x)


class LevelsLayer(DabDecoderLayer):
    """Cross-attention reads each level by itself; `lvl_attn` says how much each query takes."""

    def _read(self, q, k, v, mask, shapes, q_self, train) -> Float[Array, "b q d"]:
        shares = self._dense("lvl_attn", q_self, len(shapes))
        shares = jax.nn.softmax(shares.astype(jnp.float32)).astype(v.dtype)
        ends = np.cumsum([h * w for h, w in shapes])[:-1]
        levels = zip(*(jnp.split(y, ends, 1) for y in (k, v, mask)), strict=True)
        # The original projects each level's result; the shares add up to one, so once will do.
        found = [self._attend(q, k, v, train, key_mask=mask) for k, v, mask in levels]
        return sum(shares[..., i, None] * mixed for i, mixed in enumerate(found))


class DabDecoder(nn.Module):
    """A stack of layers around anchor boxes; one norm reads out every layer.

    Attributes:
      layer: the class of the layers: `DabDecoderLayer`, or `LevelsLayer` for several levels.
    """

    num_layers: int = 6
    num_heads: int = 8
    feedforward: int = 2048
    dropout: float = 0.0
    activation: Callable = nn.relu
    layer: type[DabDecoderLayer] = DabDecoderLayer
    remat: bool = False
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b q d"],
        reference: Float[Array, "b q 4"],
        encoded: Encoded,
        *,
        refine: Callable,
        attention_mask: Bool[Array, "b q q"] | None = None,
        train: bool = False,
    ) -> Decoded:
        """Decode; `refine` and `attention_mask` are as in `DeformableDecoder`."""
        layer = nn.remat(self.layer, static_argnums=(7, 9, 10)) if self.remat else self.layer
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
                x,
                query,
                centre,
                encoded.memory,
                encoded.position,
                encoded.mask,
                encoded.shapes,
                attention_mask,
                i == 0,
                train,
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

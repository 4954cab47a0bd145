"""Segment Anything's mask decoder (arXiv 2304.02643, section A, figure 14)."""

import jax.numpy as jnp
from flax import linen as nn

from jaxseg.models.sam.prompt_encoder import Encoded
from jaxseg.models.sam.two_way import TwoWayTransformer
from jaxseg.nn.initializers import torch_uniform
from jaxseg.nn.layers import Mlp, layer_norm
from jaxseg.nn.transposed_conv import TransposedConv
from jaxseg.structures import Masks
from jaxseg.typing import Array, DTypeLike, Float

EPSILON = 1e-6


class Upscaling(nn.Module):
    """A map at four times its size and an eighth of its width.

    Its positions stay where they come about, in patches of patches: (h, w, i, j, k, l) is row
    4h + 2i + k and column 4w + 2j + l. Masks are put in order, which have fewer values.
    """

    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w d"]) -> Float[Array, "b h w 2 2 2 2 _c"]:
        d, dtypes = x.shape[-1], {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = TransposedConv(d // 4, torch_uniform, patches=True, name="conv1", **dtypes)(x)
        x = nn.gelu(layer_norm("norm", epsilon=EPSILON, **dtypes)(x), approximate=False)
        x = TransposedConv(d // 8, patches=True, name="conv2", **dtypes)(x)
        return nn.gelu(x, approximate=False)


class MaskDecoder(nn.Module):
    """Prompts and an image's embedding to masks.

    A token for the quality of the masks and one for each mask go through the transformer beside
    the prompts. A mask's token becomes, by a perceptron of its own, the vector that every pixel
    of the upscaled image is multiplied with.

    Attributes:
      multimask_outputs: masks that an ambiguous prompt is answered with, beside the single one.
      iou_width, iou_layers: of the perceptron that predicts the quality.
    """

    transformer: TwoWayTransformer
    multimask_outputs: int = 3
    iou_width: int = 256
    iou_layers: int = 3
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        embedding: Float[Array, "b h w d"],
        position: Float[Array, "h w d"],
        prompts: Encoded,
        train: bool = False,
    ) -> Masks:
        """Decode all masks: the single one first, then those of ambiguous prompts.

        Args:
          embedding: of the images.
          position: of the embedding's grid.
          train: dropout is on (rng "dropout").
        """
        b, h, w, d = embedding.shape
        count = 1 + self.multimask_outputs
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        tokens, real = self._tokens(prompts, b, count)
        p = tokens.shape[1]

        image = embedding.astype(self.dtype)[:, None] + prompts.dense
        image = image.reshape(*image.shape[:2], h * w, d)
        position = position.astype(self.dtype).reshape(1, 1, h * w, d)
        states, image = self.transformer(tokens, image, position, real, train)

        upscaled = Upscaling(name="output_upscaling", **dtypes)(image.reshape(b * p, h, w, d))
        widths = (d, d, d // 8)
        vectors = [
            Mlp(widths, name=f"output_hypernetworks_mlps_{k}", **dtypes)(states[:, :, 1 + k])
            for k in range(count)
        ]
        upscaled = upscaled.reshape(b, p, *upscaled.shape[1:])
        logits = jnp.einsum("bpmc,bphwijklc->bpmhikwjl", jnp.stack(vectors, 2), upscaled)
        logits = logits.reshape(b, p, count, 4 * h, 4 * w)
        widths = (self.iou_width,) * (self.iou_layers - 1) + (count,)
        iou = Mlp(
            widths, final_dtype=jnp.float32, name="iou_prediction_head", **dtypes
        )(states[:, :, 0])  # fmt: skip
        return Masks(logits.astype(jnp.float32), iou)

    def _tokens(self, prompts: Encoded, batch, count: int):
        """The decoder's own tokens, then those of the prompts; and which are real."""
        d, sets = prompts.sparse.shape[-1], prompts.sparse.shape[1]
        normal = nn.initializers.normal(1.0)
        own = jnp.concatenate(
            [
                self.param("iou_token", normal, (1, d), self.param_dtype),
                self.param("mask_tokens", normal, (count, d), self.param_dtype),
            ]
        ).astype(self.dtype)
        own = jnp.broadcast_to(own, (batch, sets, *own.shape))
        sparse = jnp.broadcast_to(prompts.sparse, (batch, *prompts.sparse.shape[1:]))
        tokens = jnp.concatenate([own, sparse], 2)
        if prompts.real is None:
            return tokens, None
        return tokens, jnp.concatenate([jnp.ones(own.shape[:3], bool), prompts.real], 2)

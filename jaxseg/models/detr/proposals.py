"""Two-stage detection: the encoder's tokens propose the decoder's first boxes.

Deformable DETR (arXiv 2010.04159), section 4.3 and appendix A.4; DINO (arXiv 2203.03605),
section 3.3, chooses in the same way.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxseg.models.detr.levels import Encoded, join
from jaxseg.nn.initializers import torch_bias, xavier_uniform
from jaxseg.nn.layers import layer_norm
from jaxseg.structures import Proposals
from jaxseg.typing import Array, Bool, DTypeLike, Float, Int

SIZE = 0.05  # of an anchor of the finest level; every level doubles it
INSIDE = (0.01, 0.99)


class ProposalEncoder(nn.Module):
    """The linear layer and norm that tokens pass before they propose."""

    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, memory: Float[Array, "b n d"], usable: Bool[Array, "b n"]
    ) -> Float[Array, "b n d"]:
        """Unusable tokens enter as zeros and so all come out as the same vector."""
        width = memory.shape[-1]
        dense = nn.Dense(
            width,
            kernel_init=xavier_uniform,
            bias_init=torch_bias(width),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="enc_output",
        )
        norm = layer_norm("enc_output_norm", dtype=self.dtype, param_dtype=self.param_dtype)
        return norm(dense(jnp.where(usable[..., None], memory, 0)))


def propose(
    encoder: ProposalEncoder,
    encoded: Encoded,
    class_head: Callable,
    rank: Callable[[Float[Array, "b n k"]], Float[Array, "b n"]],
    count: int,
    index: Int[Array, "b q"] | None = None,
    padding_last: bool = False,
    size: Float[Array, "2"] | None = None,
) -> Proposals:
    """Let every token propose a class at its anchor, and choose the best.

    What a box head adds to the anchors is the caller's: DINO asks it for the chosen tokens alone,
    Deformable DETR for all.

    Args:
      class_head: features → logits, in float32.
      rank: class logits → score of each token.
      count: tokens to choose, all of them if there are fewer.
      index: choose these instead, at most `count` (near-tied scores may rank otherwise
        elsewhere).
      padding_last: choose padding after all else. The originals do not tell padding from other
        unusable tokens, so that with few real tokens their choice depends on the canvas.
      size: width and height of an anchor of the finest level; None is `SIZE`.
    """
    if index is not None and (index.shape[0] != len(encoded.mask) or index.shape[1] > count):
        raise ValueError(
            f"proposal_index must be (b, q) with b = {len(encoded.mask)} images and at most "
            f"{count} queries; got {index.shape}"
        )
    anchors, usable = token_anchors(encoded.masks, size)
    features = encoder(encoded.memory, usable)
    logits = class_head(features)
    score = rank(logits)
    if index is None:
        placed = jnp.where(encoded.mask, score, -jnp.inf) if padding_last else score
        # A canvas of fewer tokens has fewer queries (the originals end with an error).
        count = min(count, score.shape[1])
        index = jax.lax.top_k(jax.lax.stop_gradient(placed), count)[1]
    # ONNX Runtime cannot fill up booleans, as other modes would where an index is out of range.
    real = jnp.take_along_axis(encoded.mask, index, 1, mode="clip") if padding_last else None
    return Proposals(features, logits, anchors, score, index, real)


def token_anchors(
    masks: Sequence[Bool[Array, "b _h _w"]], size: Float[Array, "2"] | None = None
) -> tuple[Float[Array, "b n 4"], Bool[Array, "b n"]]:
    """An anchor at each token as box logits, infinite where it is not usable, and whether it is.

    Centres are relative to the real image. An anchor is usable where its token is real and all
    four of its numbers lie well inside (0, 1).

    Args:
      size: as in `propose`.
    """
    levels = []
    size = jnp.full(2, SIZE) if size is None else size
    for level, mask in enumerate(masks):
        b, h, w = mask.shape
        real_h, real_w = mask[:, :, 0].sum(1), mask[:, 0, :].sum(1)
        # A row that only fills up the batch has no real cell.
        y = (jnp.arange(h) + 0.5) / jnp.maximum(real_h, 1)[:, None]
        x = (jnp.arange(w) + 0.5) / jnp.maximum(real_w, 1)[:, None]
        sides = (side * 2.0**level for side in size)
        parts = (x[:, None, :], y[:, :, None], *sides)
        levels.append(jnp.stack([jnp.broadcast_to(part, (b, h, w)) for part in parts], -1))
    anchors, real = join(levels), join(list(masks))
    low, high = INSIDE
    usable = ((anchors > low) & (anchors < high)).all(-1) & real
    safe = jnp.where(usable[..., None], anchors, 0.5)
    logits = jnp.log(safe / (1 - safe))
    return jnp.where(usable[..., None], logits, jnp.inf), usable

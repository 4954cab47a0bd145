"""The cross-modality decoder's layer (Grounding DINO, arXiv 2303.05499, section 3.3)."""

import jax.numpy as jnp

from jaxseg.models.detr.deformable_decoder import DeformableDecoderLayer
from jaxseg.models.detr.encoder import residual
from jaxseg.nn.attention import MultiHeadAttention
from jaxseg.structures import ABSENT
from jaxseg.typing import Array, Bool, Float


class GroundedDecoderLayer(DeformableDecoderLayer):
    """Self-attention, attention to the words, then to the image, and the feed-forward pair."""

    def read(
        self,
        x: Float[Array, "b q d"],
        query: Float[Array, "b q d"],
        train: bool,
        text: Float[Array, "b s d"],
        text_mask: Bool[Array, "b s"],
    ) -> Float[Array, "b q d"]:
        """Queries after reading the words, whose padding is not seen."""

        def attend(x):
            attention = MultiHeadAttention(
                self.num_heads, self.dropout, self.dtype, self.param_dtype, name="ca_text"
            )
            placed, words = x + query.astype(x.dtype), text.astype(x.dtype)
            return attention(placed, words, words, key_mask=text_mask, train=train)

        return residual(self, x, attend, "catext_norm", train)


def similarity(
    states: Float[Array, "*l b q d"], text: Float[Array, "b s d"], mask: Bool[Array, "b s"]
) -> Float[Array, "*l b q s"]:
    """How much each state is what each token says: their product, in float32.

    Padding tokens have no chance.
    """
    states, text = states.astype(jnp.float32), text.astype(jnp.float32)
    logits = jnp.einsum("...bqd,bsd->...bqs", states, text)
    return jnp.where(mask[:, None], logits, ABSENT)

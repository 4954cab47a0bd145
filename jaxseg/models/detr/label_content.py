"""DN-DETR's queries: content embeds a label, noised or unknown (arXiv 2203.01305, section 4.3)."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxseg.models.detr.denoising import (
    Denoising,
    Noise,
    draw_noise,
    noised_labels,
    plain_slots,
    shifted_boxes,
)
from jaxseg.models.detr.queries import learned_rows
from jaxseg.ops.boxes import inverse_sigmoid
from jaxseg.structures import Targets
from jaxseg.typing import Array, DTypeLike, Float


class LabelContent(nn.Module):
    """A table of labels with one more for "unknown"; a last channel tells denoising queries apart.

    Attributes:
      groups: copies of each image's targets.
      label_noise: share of the labels that are drawn anew.
      box_noise: how far boxes move, in halves of the size (centre) and in sizes.
    """

    width: int = 256
    groups: int = 5
    label_noise: float = 0.2
    box_noise: float = 0.4
    epsilon: float = 1e-3
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, num_classes: int, targets: Targets | None, noise: Noise | None, train: bool
    ) -> tuple[Float[Array, " d"], Denoising | None]:
        """Content of matching queries, and noised targets as queries in training.

        Args:
          noise: random numbers, drawn by default (rng "denoising").
        """
        labels = learned_rows(self, "label_enc", num_classes + 1, self.width - 1)
        unknown = mark(labels[-1], 0.0)
        if not train or targets is None:
            return unknown, None
        slots = plain_slots(targets.mask, self.groups)
        if noise is None:
            noise = draw_noise(self.make_rng("denoising"), slots, num_classes)
        content = mark(labels[noised_labels(slots, targets, noise, self.label_noise)], 1.0)
        boxes = shifted_boxes(slots, targets, noise, self.box_noise)
        real = slots.real[..., None]
        logits = jnp.where(real, inverse_sigmoid(boxes, self.epsilon), 0)
        content = jnp.where(real, content, 0)
        return unknown, Denoising(slots, content, jax.lax.stop_gradient(logits))


def mark(content: Float[Array, "*b d"], value: float) -> Float[Array, "*b d+1"]:
    """Content with the channel that tells: 1 for denoising queries, 0 for matching ones."""
    return jnp.concatenate([content, jnp.full_like(content[..., :1], value)], -1)

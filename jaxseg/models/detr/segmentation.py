"""DETR with masks: instance and panoptic segmentation (arXiv 2005.12872, section 4.4)."""

import jax.numpy as jnp
from flax import linen as nn

from jaxseg.models.detr.detr import Detr, is_exact
from jaxseg.structures import DetectorOutput, Images, Targets
from jaxseg.typing import Array, Float


class DetrSegmentation(Detr, kw_only=True):
    """A `Detr` that draws a mask for each of its queries.

    Its parameters are a detector's, and beside them those of the two parts; a detector's
    weights go in as they are. The backbone returns all four stages.

    Attributes:
      bbox_attention: decoder states and memory to attention maps.
      mask_head: projected features, maps and finer features to mask logits.
    """

    bbox_attention: nn.Module
    mask_head: nn.Module

    @nn.compact
    def __call__(
        self, images: Images, targets: Targets | None = None, train: bool = False
    ) -> DetectorOutput:
        """As `Detr`; `mask_logits` of the output are at stride 4 of the canvas."""
        output = super().__call__(images, targets, train)
        projected, features = output.extras["projected"], output.features
        size = projected.shape[:3]
        mask = features.masks[-1].reshape(size[0], -1)
        maps = self.bbox_attention(output.states[-1], output.memory, mask)
        maps = maps.reshape(*maps.shape[:2], *size[1:], -1)
        # coarse to fine, as the masks grow
        finer, masks = features.maps[-2::-1], features.masks[::-1]
        if not is_exact(self.canvas):
            masks = (None,) * len(masks)
        logits = self.mask_head(projected, maps, finer, masks)
        extras = output.extras | {"masks": logits, "attention_maps": maps}
        return output.replace(extras=extras)

    def mask_logits(self, output: DetectorOutput) -> Float[Array, "b q h w"]:
        """Mask logits of every query; positive where its object is."""
        return output.extras["masks"].astype(jnp.float32)

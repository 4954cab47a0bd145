"""A model that finds stripes of pure colours, with masks: no learning needed."""

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxseg.checkpoints import ImageConfig
from jaxseg.models.detr.heads import softmax_detections
from jaxseg.structures import DetectorOutput, Features, Images

# Pixels pass through unchanged, so that the model can read colours.
IMAGE = ImageConfig((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 64, 107)
PARAMS = {"gain": np.float32(1.0)}


class StripeFinder(nn.Module):
    """One query for each of red, green and blue; `gain` scales the mask logits."""

    num_classes: int = 3
    canvas: str = "padded"
    stride: int = 32

    @nn.compact
    def __call__(self, images: Images, targets=None, train: bool = False) -> DetectorOutput:
        gain = self.param("gain", nn.initializers.ones, ())
        colour = images.pixels > 0.5  # b h w k
        b = len(colour)
        label = jnp.where(colour.any((1, 2)), jnp.arange(3), 3)
        size = jnp.stack([images.mask.any(2).sum(1), images.mask.any(1).sum(1)], -1)
        y, x = _extent(colour.any(2)) / size[:, :1], _extent(colour.any(1)) / size[:, 1:]
        boxes = jnp.stack([x.sum(0) / 2, y.sum(0) / 2, x[1] - x[0], y[1] - y[0]], -1)
        masks = jnp.moveaxis(colour[:, ::4, ::4], -1, 1) * 20.0 - 10.0
        empty = jnp.zeros((b, 0, 0))
        return DetectorOutput(
            logits=(12.0 - jnp.arange(4)) * (label[None, ..., None] == jnp.arange(4)),
            boxes=boxes[None].astype(jnp.float32),
            states=empty[None],
            memory=empty,
            features=Features((), ()),
            position=empty,
            extras={"masks": masks * gain},
        )

    def mask_logits(self, output):
        return output.extras["masks"]

    detections = staticmethod(softmax_detections)


def _extent(hit):
    """First and last + 1 index of True along axis 1 of (b, n, k): (2, b, k)."""
    n = hit.shape[1]
    return jnp.stack([jnp.argmax(hit, 1), n - jnp.argmax(hit[:, ::-1], 1)])

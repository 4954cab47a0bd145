"""From a decoder's outputs to detections in pixels (arXiv 2005.12872, section 3.1)."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.ops.boxes import cxcywh_to_xyxy, scale_boxes
from jaxseg.ops.masks import resize_bilinear, resize_nearest
from jaxseg.structures import Detections, DetectorOutput
from jaxseg.typing import Array, Bool, Float, Int


def softmax_detections(output: DetectorOutput, original_sizes: Int[Array, "b 2"]) -> Detections:
    """One detection a query, in query order: its likeliest class beside no-object (the last).

    Boxes are xyxy in pixels of `original_sizes` (h, w), not clipped.
    """
    logits = output.logits[-1].astype(jnp.float32)
    probabilities = jax.nn.softmax(logits)[..., :-1]
    boxes = cxcywh_to_xyxy(output.boxes[-1].astype(jnp.float32))
    return Detections(
        boxes=scale_boxes(boxes, original_sizes),
        scores=probabilities.max(-1),
        labels=probabilities.argmax(-1),
    )


def instance_masks(
    logits: Float[Array, "b q h w"],
    sizes: Int[np.ndarray, "b 2"],
    original_sizes: Int[np.ndarray, "b 2"],
    threshold: float = 0.5,
) -> list[Bool[Array, "q _h _w"]]:
    """A mask for every query of each image, at its file's size (arXiv 2005.12872, section 4.4).

    The logits cover the largest of `sizes` (h, w on the canvas); each image's part is cut out
    after the threshold and brought to `original_sizes` by nearest neighbour. Runs on the host,
    image by image, because every result has its own shape.
    """
    sizes, original_sizes = np.asarray(sizes), np.asarray(original_sizes)
    canvas = tuple(int(x) for x in sizes.max(0))
    masks = []
    for one, (h, w), original in zip(logits, sizes, original_sizes, strict=True):
        real = jax.nn.sigmoid(resize_bilinear(one, canvas)) > threshold
        masks.append(resize_nearest(real[:, :h, :w], tuple(int(x) for x in original)))
    return masks

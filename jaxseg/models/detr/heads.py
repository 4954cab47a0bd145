"""From a decoder's outputs to detections in pixels (arXiv 2005.12872, section 3.1)."""

import jax
import jax.numpy as jnp

from jaxseg.ops.boxes import cxcywh_to_xyxy, scale_boxes
from jaxseg.structures import Detections, DetectorOutput
from jaxseg.typing import Array, Int


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

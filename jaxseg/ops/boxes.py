"""Boxes: formats, overlap. cxcywh in [0, 1] inside models, xyxy outside."""

import jax.numpy as jnp

from jaxseg.typing import Array, Float, Num


def inverse_sigmoid(x: Float[Array, "*b"], epsilon: float) -> Float[Array, "*b"]:
    """log(x / (1 − x)) with x held in [0, 1] and neither side of the quotient below epsilon.

    The papers' codes differ in epsilon: 1e-5 in Deformable DETR, 1e-3 from DAB-DETR on.
    """
    x = jnp.clip(x, 0, 1)
    return jnp.log(jnp.maximum(x, epsilon) / jnp.maximum(1 - x, epsilon))


def cxcywh_to_xyxy(boxes: Float[Array, "*b 4"]) -> Float[Array, "*b 4"]:
    """Centre and size to opposite corners."""
    centre, size = boxes[..., :2], boxes[..., 2:]
    return jnp.concatenate([centre - 0.5 * size, centre + 0.5 * size], -1)


def xyxy_to_cxcywh(boxes: Float[Array, "*b 4"]) -> Float[Array, "*b 4"]:
    """Opposite corners to centre and size."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return jnp.concatenate([(low + high) / 2, high - low], -1)


def scale_boxes(boxes: Float[Array, "b q 4"], sizes: Num[Array, "b 2"]) -> Float[Array, "b q 4"]:
    """From [0, 1] to pixels of images of the given (h, w)."""
    height, width = sizes[:, 0], sizes[:, 1]
    scale = jnp.stack([width, height, width, height], -1).astype(boxes.dtype)
    return boxes * scale[:, None]


def area(boxes_xyxy: Float[Array, "*#b 4"]) -> Float[Array, "*#b"]:
    """Width times height; negative where a box is turned inside out."""
    size = boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]
    return size[..., 0] * size[..., 1]


def overlap(
    a: Float[Array, "*#b 4"], b: Float[Array, "*#b 4"]
) -> tuple[Float[Array, "*#b"], Float[Array, "*#b"]]:
    """Area of the intersection and of the union of xyxy boxes, pair by pair."""
    low = jnp.maximum(a[..., :2], b[..., :2])
    high = jnp.minimum(a[..., 2:], b[..., 2:])
    size = jnp.maximum(high - low, 0)
    intersection = size[..., 0] * size[..., 1]
    return intersection, area(a) + area(b) - intersection


def iou(a: Float[Array, "*#b 4"], b: Float[Array, "*#b 4"]) -> Float[Array, "*#b"]:
    """Intersection over union of xyxy boxes, pair by pair; 0 where both are empty."""
    intersection, union = overlap(a, b)
    return _divide(intersection, union)


def generalized_iou(
    a: Float[Array, "*#b 4"], b: Float[Array, "*#b 4"], epsilon: float = 0.0
) -> Float[Array, "*#b"]:
    """IoU minus the share of the hull that neither box covers (arXiv 1902.09630), in [-1, 1].

    Pair by pair on xyxy boxes; broadcast `a[:, None]` against `b[None]` for all pairs. Where
    hull or union is empty the quotient counts as 0 instead of NaN, with a zero gradient.

    Args:
      epsilon: added to both denominators; 1e-6 in the codes from DAB-DETR on.
    """
    intersection, union = overlap(a, b)
    low = jnp.minimum(a[..., :2], b[..., :2])
    high = jnp.maximum(a[..., 2:], b[..., 2:])
    hull = area(jnp.concatenate([low, high], -1))
    return _divide(intersection, union + epsilon) - _divide(hull - union, hull + epsilon)


def _divide(numerator, denominator):
    # The inner `where` keeps the gradient of the branch not taken finite.
    safe = jnp.where(denominator == 0, 1, denominator)
    return jnp.where(denominator == 0, 0, numerator / safe)

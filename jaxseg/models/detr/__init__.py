"""DETR and the detectors that grew from it."""

from jaxseg.models.detr.builders import (
    detr,
    r50,
    r50_dc5,
    r50_dc5_panoptic,
    r50_instance,
    r50_panoptic,
    r101,
    r101_dc5,
    r101_instance,
    r101_panoptic,
    tiny,
    tiny_masks,
)
from jaxseg.models.detr.detr import Detr
from jaxseg.models.detr.segmentation import DetrSegmentation

__all__ = [
    "Detr",
    "DetrSegmentation",
    "detr",
    "r50",
    "r50_dc5",
    "r50_dc5_panoptic",
    "r50_instance",
    "r50_panoptic",
    "r101",
    "r101_dc5",
    "r101_instance",
    "r101_panoptic",
    "tiny",
    "tiny_masks",
]

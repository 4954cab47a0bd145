"""DETR and the detectors that grew from it."""

from jaxseg.models.detr.builders import detr, r50, r50_dc5, r101, r101_dc5, tiny
from jaxseg.models.detr.detr import Detr

__all__ = ["Detr", "detr", "r50", "r50_dc5", "r101", "r101_dc5", "tiny"]

"""Grounding DINO (arXiv 2303.05499): find what the words say."""

from jaxseg.models.grounding_dino.builders import grounding_dino, swin_b, swin_t, tiny
from jaxseg.models.grounding_dino.grounding_dino import GroundingDino
from jaxseg.models.grounding_dino.scoring import class_detections, class_scores, class_shares

__all__ = [
    "GroundingDino",
    "class_detections",
    "class_scores",
    "class_shares",
    "grounding_dino",
    "swin_b",
    "swin_t",
    "tiny",
]

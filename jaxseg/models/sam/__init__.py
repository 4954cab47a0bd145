"""Segment Anything (arXiv 2304.02643)."""

from jaxseg.models.sam.builders import sam, tiny, vit_b, vit_h, vit_l
from jaxseg.models.sam.sam import Sam

__all__ = ["Sam", "sam", "tiny", "vit_b", "vit_h", "vit_l"]

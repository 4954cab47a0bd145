"""CLIP (arXiv 2103.00020): an image and a text tower with one embedding."""

from jaxseg.models.clip.builders import clip, tiny, vit_b16, vit_b32, vit_l14, vit_l14_336
from jaxseg.models.clip.clip import Clip, ClipImage

__all__ = [
    "Clip",
    "ClipImage",
    "clip",
    "tiny",
    "vit_b16",
    "vit_b32",
    "vit_l14",
    "vit_l14_336",
]

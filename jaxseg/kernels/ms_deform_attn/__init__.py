"""Multi-scale deformable attention: one operation, several implementations."""

from jaxseg.kernels.ms_deform_attn.api import IMPLEMENTATIONS, Implementation, ms_deform_attn
from jaxseg.kernels.ms_deform_attn.reference import Shapes

__all__ = ["IMPLEMENTATIONS", "Implementation", "Shapes", "ms_deform_attn"]

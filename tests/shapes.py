"""Shapes of the parameters of whole models."""

import functools
from types import MappingProxyType

from jaxseg.models import MODELS
from jaxseg.params import abstract_params, flatten

NUMBERED = sorted(
    name for name in MODELS if not name.startswith(("sam.", "clip.", "grounding_dino."))
)
DETECTORS = sorted(name for name in MODELS if not name.startswith(("sam.", "clip.")))


@functools.cache
def flat_shapes(model):
    """{path: shape and dtype}; a model of full size takes seconds to trace, so equal ones are
    traced once."""
    return MappingProxyType(flatten(abstract_params(model)))

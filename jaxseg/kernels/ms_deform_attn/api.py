"""Multi-scale deformable attention (Deformable DETR, arXiv 2010.04159, section 4.1, equation 3)."""

from collections.abc import Callable
from typing import Literal, get_args

import jax

from jaxseg.kernels.ms_deform_attn.blocked import blocked
from jaxseg.kernels.ms_deform_attn.reference import Shapes, reference
from jaxseg.typing import Array, Float

Implementation = Literal["reference", "blocked"]
IMPLEMENTATIONS: dict[str, Callable] = {"reference": reference, "blocked": blocked}


def ms_deform_attn(
    value: Float[Array, "b n m d"],
    shapes: Shapes,
    locations: Float[Array, "b q m l p 2"],
    weights: Float[Array, "b q m l p"],
    *,
    implementation: Implementation | None = None,
) -> Float[Array, "b q m*d"]:
    """Weighted sums of bilinear samples from several maps.

    A sample at (x, y) of a map of size (h, w) reads pixel coordinates (x·w − 0.5, y·h − 0.5):
    pixel centres are at half-integers, and each of the four neighbours counts 0 if it is
    outside. Sampling and sums are float32; the result has the dtype of `value`. Gradients
    reach values, locations and weights.

    Args:
      value: the maps joined, finest first, each row by row; m heads of d channels.
      shapes: (h, w) of each map.
      locations: (x, y) in [0, 1] of each map; anything is allowed.
      weights: of the samples; softmaxed over levels and points by the caller.
      implementation: a name in `IMPLEMENTATIONS`, which never falls back to another; None
        chooses by platform.
    """
    _check(value, shapes, locations, weights)
    name = implementation or ("blocked" if jax.default_backend() == "cpu" else "reference")
    if name not in IMPLEMENTATIONS:
        raise ValueError(f"no implementation {name!r}; there are {', '.join(IMPLEMENTATIONS)}")
    return IMPLEMENTATIONS[name](value, shapes, locations, weights)


def _check(value, shapes, locations, weights) -> None:
    tokens = sum(h * w for h, w in shapes)
    if value.shape[1] != tokens:
        raise ValueError(f"maps of {shapes} have {tokens} tokens; value has {value.shape[1]}")
    if locations.shape[3] != len(shapes):
        raise ValueError(f"{len(shapes)} maps; locations are for {locations.shape[3]} levels")
    if locations.shape[:-1] != weights.shape:
        raise ValueError(
            f"locations {locations.shape} and weights {weights.shape} must agree in all but the "
            "last axis"
        )
    if (value.shape[0], value.shape[2]) != (locations.shape[0], locations.shape[2]):
        raise ValueError(
            f"value {value.shape} and locations {locations.shape} must have as many images and "
            "heads"
        )


assert set(IMPLEMENTATIONS) == set(get_args(Implementation))

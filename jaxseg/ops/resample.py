"""Reading tables of position embeddings at other sizes: torch's kernels, half-pixel centres.

`jax.image.resize` has another cubic kernel (a = −0.5) and renormalises it at the border, where
torch repeats the last value.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from jaxseg.typing import Array, Float, Int

Method = Literal["linear", "cubic"]
CUBIC = -0.75


def source_positions(
    index: Float[Array, "*#b m"], size: Int[Array, "*#b 1"] | int, source: int
) -> Float[Array, "*#b m"]:
    """Where element `index` of `size` lies among `source` elements over the same extent."""
    return (index + 0.5) * (source / jnp.maximum(size, 1)) - 0.5


def interpolation_matrix(
    positions: Float[Array, "*b m"], source: int, method: Method
) -> Float[Array, "*b m {source}"]:
    """Weights that read a line of `source` values at fractional positions (no antialiasing)."""
    first = jnp.floor(positions)
    share = positions - first
    taps = _cubic(share) if method == "cubic" else {0: 1 - share, 1: share}
    matrix = jnp.zeros((*positions.shape, source))
    for tap, weight in taps.items():
        index = jnp.clip(first + tap, 0, source - 1).astype(jnp.int32)
        matrix += weight[..., None] * jax.nn.one_hot(index, source)
    return matrix


def _cubic(share) -> dict:
    def near(x):
        return ((CUBIC + 2) * x - (CUBIC + 3)) * x * x + 1

    def far(x):
        return ((CUBIC * x - 5 * CUBIC) * x + 8 * CUBIC) * x - 4 * CUBIC

    return {-1: far(share + 1), 0: near(share), 1: near(1 - share), 2: far(2 - share)}


def resize_grid(
    grid: Float[Array, "_h _w c"],
    height: int,
    width: int,
    method: Method = "cubic",
    sizes: Int[Array, "b 2"] | None = None,
) -> Float[Array, "_b {height} {width} c"]:
    """A grid of embeddings at another size, or at the size of each image on a canvas.

    Args:
      height, width: of the result.
      sizes: (h, w) of each image: its embeddings are those of a map of that size, at the top
        left; what lies beyond means nothing. Without, one map for the whole batch.
    """
    if sizes is None and grid.shape[:2] == (height, width):
        return grid[None]
    sizes = jnp.array([[height, width]]) if sizes is None else sizes
    rows, columns = (
        interpolation_matrix(
            source_positions(jnp.arange(length, dtype=jnp.float32)[None], sizes[:, axis, None], n),
            n,
            method,
        )
        for axis, (length, n) in enumerate(zip((height, width), grid.shape[:2], strict=True))
    )
    # A rounded matrix product would shift embeddings even where nothing is resized.
    return jnp.einsum("bhi,bwj,ijc->bhwc", rows, columns, grid, precision=lax.Precision.HIGHEST)

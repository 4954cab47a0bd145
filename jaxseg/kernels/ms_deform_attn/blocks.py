"""Cutting an attention into blocks of queries: what a block holds, and the geometry within it.

A block's arrays are flat, in the order (row, sample): a row is a query's head, a sample a point
of a level. With a last axis of sixteen samples, a CPU would compute sixteen lanes at a time.
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxseg.kernels.ms_deform_attn.reference import Shapes
from jaxseg.typing import Array


@dataclass(frozen=True)
class Blocks:
    """Blocks of queries, each within one image; all are of one size, so the last may overlap."""

    shapes: Shapes
    images: int
    tokens: int
    queries: int
    heads: int
    width: int  # of a head
    points: int
    block_bytes: int  # of one neighbour's rows of a block's samples, about

    @classmethod
    def of(cls, value, shapes: Shapes, locations, block_bytes: int) -> "Blocks":
        b, n, m, d = value.shape
        return cls(shapes, b, n, locations.shape[1], m, d, locations.shape[4], block_bytes)

    @property
    def samples(self) -> int:
        """Of a row."""
        return len(self.shapes) * self.points

    @property
    def per_image(self) -> int:
        read = self.queries * self.heads * self.samples * self.width * 4
        return min(self.queries, max(1, round(read / self.block_bytes)))

    @property
    def rows(self) -> int:
        """Of a block."""
        return -(-self.queries // self.per_image) * self.heads

    def place(self, step) -> tuple[Array, Array, Array]:
        """The image of a block, its first row there, and how many rows the last one had too."""
        image, block = step // self.per_image, step % self.per_image
        first = jnp.minimum(block * self.rows, self.queries * self.heads - self.rows)
        return image, first, block * self.rows - first

    def cut(self, array: Array, image: Array, first: Array) -> Array:
        """A block's part, flat, of an array whose rows are (image, query, head)."""
        per_row = array.size // (self.images * self.queries * self.heads)
        start = (image * self.queries * self.heads + first) * per_row
        return lax.dynamic_slice_in_dim(array.reshape(-1), start, self.rows * per_row)

    def put(self, array: Array, part: Array, image: Array, first: Array) -> Array:
        """Write what `cut` reads, into a flat array."""
        start = (image * self.queries * self.heads + first) * (part.size // self.rows)
        return lax.dynamic_update_slice_in_dim(array, part.reshape(-1), start, 0)

    def pixels(self, locations: Array) -> tuple[Array, Array]:
        """x and y of samples, in pixels of their maps, from pairs in [0, 1]."""
        width, height = self._sizes()
        return locations[0::2] * width - 0.5, locations[1::2] * height - 0.5

    def neighbours(self, x, y, weights, image) -> tuple[list[Array], list[Array]]:
        """Of the four neighbours: their rows in the table (image, token, head), their shares."""
        (width, height), starts = self._sizes(), self._starts() + image * self.tokens * self.heads
        across, down = Axis(x, width), Axis(y, height)
        rows = [
            starts + (row * width.astype(np.int32) + column) * self.heads
            for row in down.cells
            for column in across.cells
        ]
        return rows, [weights * v * u for v in down.shares for u in across.shares]

    def to_samples(self, x, y, weights, dots) -> tuple[Array, Array, Array]:
        """Gradients of x, y and weights of all samples.

        Args:
          dots: of each neighbour, its row times the gradient of the result.
        """
        width, height = self._sizes()
        across, down = Axis(x, width), Axis(y, height)
        (u0, u1), (v0, v1), (d00, d01, d10, d11) = across.shares, down.shares, dots
        top, bottom = u0 * d00 + u1 * d01, u0 * d10 + u1 * d11
        left, right = v0 * d00 + v1 * d10, v0 * d01 + v1 * d11
        return (
            weights * width * across.slope(left, right),
            weights * height * down.slope(top, bottom),
            v0 * top + v1 * bottom,
        )

    def _tiled(self, per_level, dtype) -> np.ndarray:
        return np.tile(np.repeat(np.asarray(per_level, dtype), self.points), self.rows)

    def _sizes(self) -> tuple[np.ndarray, np.ndarray]:
        """Width and height of the map of every sample."""
        heights, widths = zip(*self.shapes, strict=True)
        return self._tiled(widths, np.float32), self._tiled(heights, np.float32)

    def _starts(self) -> np.ndarray:
        """Where the map of every sample begins in the table of one image."""
        starts = np.cumsum([0] + [h * w for h, w in self.shapes[:-1]])
        heads = np.repeat(np.arange(self.rows, dtype=np.int32) % self.heads, self.samples)
        return self._tiled(starts * self.heads, np.int32) + heads


class Axis:
    """One coordinate of samples: the two neighbouring cells, clipped, and the share of each."""

    def __init__(self, place: Array, size: np.ndarray):
        low = lax.floor(place)
        share = place - low
        # Beyond these both neighbours are outside; a huge number has no integer.
        low = lax.max(lax.min(low, size), np.full_like(size, -2.0)).astype(jnp.int32)
        last, zero = size.astype(np.int32) - 1, np.zeros_like(size)
        self._inside = [(cell >= 0) & (cell <= last) for cell in (low, low + 1)]
        self.cells = [lax.clamp(np.int32(0), cell, last) for cell in (low, low + 1)]
        self.shares = [
            lax.select(inside, part, zero)
            for inside, part in zip(self._inside, (1 - share, share), strict=True)
        ]

    def slope(self, near: Array, far: Array) -> Array:
        """What a step along the axis adds, given what the two cells are worth."""
        zero = lax.full_like(near, 0)
        return lax.select(self._inside[1], far, zero) - lax.select(self._inside[0], near, zero)

"""Quad packing: a row of a table holds four neighbours, so that a sample reads one row, not four.

With it the operation becomes a weighted sum of table rows (an embedding bag). Only that sum has
several forms and gradients by hand; packing and geometry are plain code with plain gradients.

    table    (g, r, 4·d)    a table for each image and head, g of them
    index    (g, k, q)      the row that sample k of query q reads, k over levels × points
    weights  (g, 4, k, q)   of the row's four parts
    result   (g, q, d)      float32
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxseg.kernels.ms_deform_attn.reference import Shapes
from jaxseg.typing import Array, Float, Int

Bag = Callable[[Array, Array, Array], Array]
# A row count that is a multiple of it fills whole registers of a TPU, in bfloat16 too.
ROW_MULTIPLE = 16


def attend(
    bag: Bag,
    value: Float[Array, "b n m d"],
    shapes: Shapes,
    locations: Float[Array, "b q m l p 2"],
    weights: Float[Array, "b q m l p"],
) -> Float[Array, "b q m*d"]:
    """Arguments and result as in `ms_deform_attn`, with the sum of rows done by `bag`."""
    b, q, m, _, _, _ = locations.shape
    index, shares = samples(shapes, locations, weights)
    mixed = bag(pack(value, shapes), index, shares)
    return mixed.reshape(b, m, q, -1).swapaxes(1, 2).reshape(b, q, -1).astype(value.dtype)


def pack(value: Float[Array, "b n m d"], shapes: Shapes) -> Float[Array, "b*m r 4*d"]:
    """Row (y, x) of a level holds the cells (y-1, x-1), (y-1, x), (y, x-1), (y, x), zero outside.

    A map of h × w cells has (h + 1) × (w + 1) rows.
    """
    b, _, m, d = value.shape
    parts, start = [], 0
    for h, w in shapes:
        cells = value[:, start : start + h * w].reshape(b, h, w, m * d)
        start += h * w
        # One zero column will do: left of a row's first cell is the end of the row above.
        cells = jnp.pad(cells, ((0, 0), (0, 1), (0, 1), (0, 0))).reshape(b, -1, m * d)
        parts.append([_later(cells, steps) for steps in (w + 2, w + 1, 1, 0)])
    # Heads part from channels last: a last axis of d would leave most of a TPU's lanes empty.
    table = jnp.concatenate([jnp.concatenate(part, 1) for part in zip(*parts, strict=True)], -1)
    rows = count_rows(shapes)
    table = jnp.pad(table, ((0, 0), (0, rows - table.shape[1]), (0, 0)))
    return table.reshape(b, rows, 4, m, d).transpose(0, 3, 1, 2, 4).reshape(b * m, rows, 4 * d)


def _later(cells: Float[Array, "b n c"], steps: int) -> Float[Array, "b n c"]:
    """Move cells to later rows; zeros come first, and the last cells go."""
    return jnp.pad(cells, ((0, 0), (steps, 0), (0, 0)))[:, : cells.shape[1]]


def count_rows(shapes: Shapes) -> int:
    """Rows of a packed table."""
    used = sum((h + 1) * (w + 1) for h, w in shapes)
    return used + -used % ROW_MULTIPLE


def samples(
    shapes: Shapes,
    locations: Float[Array, "b q m l p 2"],
    weights: Float[Array, "b q m l p"],
) -> tuple[Int[Array, "g k q"], Float[Array, "g 4 k q"]]:
    """The row that each sample reads, and the weights of the row's parts.

    Queries come last: on a TPU the last axis fills the 128 lanes.
    """
    b, q, m, l, p = weights.shape
    heights, widths = (np.repeat(size, p)[:, None] for size in zip(*shapes, strict=True))
    sizes = [(h + 1) * (w + 1) for h, w in shapes]
    starts = np.repeat(np.cumsum([0, *sizes[:-1]]), p)[:, None].astype(np.int32)

    def last(array):
        return array.astype(jnp.float32).transpose(0, 2, 3, 4, 1).reshape(b * m, l * p, q)

    x = last(locations[..., 0]) * widths.astype(np.float32) - 0.5
    y = last(locations[..., 1]) * heights.astype(np.float32) - 0.5
    # Computed twice, with other roundings, row and shares could be those of two cells.
    x, y = lax.optimization_barrier((x, y))
    column, in_width, (left, right) = _cell(x, widths)
    row, in_height, (top, bottom) = _cell(y, heights)
    weight = jnp.where(in_width & in_height, last(weights), 0)
    shares = jnp.stack([top * left, top * right, bottom * left, bottom * right], 1)
    return starts + row * (widths.astype(np.int32) + 1) + column, weight[:, None] * shares


def _cell(place: Array, size: np.ndarray) -> tuple[Array, Array, tuple[Array, Array]]:
    """A coordinate's position among `size` + 1 rows, whether it has one, shares of both ends."""
    low = jnp.floor(lax.stop_gradient(place))
    inside = (low >= -1) & (low < size)
    share = jnp.where(inside, place - low, 0)
    position = jnp.where(inside, low + 1, 0).astype(jnp.int32)
    return position, inside, (1 - share, share)


def with_gradients(mix: Bag, pull: Callable) -> Bag:
    """A bag that computes `mix(table, index, weights)`.

    Args:
      pull: of the same and the result's gradient: the gradients of table and weights, float32.
    """

    @jax.custom_vjp
    def bag(table, index, weights):
        return mix(table, index, weights)

    def forward(table, index, weights):
        return bag(table, index, weights), (table, index, weights)

    def backward(saved, cotangent):
        of_table, of_weights = pull(*saved, cotangent)
        return of_table.astype(saved[0].dtype), None, of_weights

    bag.defvjp(forward, backward)
    return bag

"""The form for CPUs: blocks of queries whose samples stay in the cache; gradients by hand.

What costs time on a CPU is not arithmetic: it is large temporaries, whose pages the operating
system hands out anew at every call, and index arithmetic repeated inside of gathers. So a loop
takes a few queries at a time, and the rows are read from `value` as it lies.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from jaxseg.kernels.ms_deform_attn.blocks import Blocks
from jaxseg.kernels.ms_deform_attn.reference import Shapes
from jaxseg.ops.compiler import apart
from jaxseg.typing import Array, Float

# Of the rows that a block reads. Its indices, going forward, and the rows themselves, going back,
# are to stay in a share of a core's second-level cache.
FORWARD_BYTES, BACKWARD_BYTES = 2**22, 2**19
# Samples whose rows one loop reads: its code grows with them.
AT_ONCE = 16


def blocked(
    value: Float[Array, "b n m d"],
    shapes: Shapes,
    locations: Float[Array, "b q m l p 2"],
    weights: Float[Array, "b q m l p"],
) -> Float[Array, "b q m*d"]:
    """Arguments and result as in `ms_deform_attn`."""
    b, q, *_ = locations.shape
    locations, weights = locations.astype(jnp.float32), weights.astype(jnp.float32)
    mixed = _attend(shapes, value, locations, weights)
    return mixed.reshape(b, q, -1).astype(value.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(shapes, value, locations, weights):
    """The rows (image, query, head) in float32."""
    blocks = Blocks.of(value, shapes, locations, FORWARD_BYTES)
    table = value.reshape(-1, blocks.width)

    def step(i, mixed):
        image, first, _ = blocks.place(i)
        place = apart(blocks.pixels, blocks.cut(locations, image, first))
        weight = blocks.cut(weights, image, first)
        rows, shares = apart(blocks.neighbours, *place, weight, image)
        return blocks.put(mixed, _mix(blocks, table, rows, shares), image, first)

    size = blocks.images * blocks.queries * blocks.heads * blocks.width
    return lax.fori_loop(0, blocks.images * blocks.per_image, step, jnp.zeros(size, jnp.float32))


def _forward(shapes, value, locations, weights):
    return _attend(shapes, value, locations, weights), (value, locations, weights)


def _backward(shapes, saved, cotangent):
    value, locations, weights = saved
    blocks = Blocks.of(value, shapes, locations, BACKWARD_BYTES)
    chains = _chains(blocks)
    images = blocks.images // chains
    tables = [part.reshape(-1, blocks.width) for part in jnp.split(value, chains)]

    def block(chain, i, gradients):
        of_tables, of_locations, of_weights = gradients
        own, first, again = blocks.place(i)
        image = chain * images + own
        place = apart(blocks.pixels, blocks.cut(locations, image, first))
        weight = blocks.cut(weights, image, first)
        rows, shares = apart(blocks.neighbours, *place, weight, own)
        pull = blocks.cut(cotangent, image, first).reshape(blocks.rows, blocks.width)
        dots = [_dot(blocks, tables[chain], row, pull) for row in rows]
        *to_place, to_weights = apart(blocks.to_samples, *place, weight, dots)
        to_locations = apart(_interleaved, *to_place)
        pull = apart(_without_first, pull, again)
        of_table = of_tables[chain]
        for row, share in zip(rows, shares, strict=True):
            of_table = _spread(blocks, of_table, row, share, pull)
        return (
            (*of_tables[:chain], of_table, *of_tables[chain + 1 :]),
            blocks.put(of_locations, to_locations, image, first),
            blocks.put(of_weights, to_weights, image, first),
        )

    def step(i, gradients):
        for chain in range(chains):
            gradients = block(chain, i, gradients)
        return gradients

    of_tables = tuple(jnp.zeros(table.shape, jnp.float32) for table in tables)
    zeros = of_tables, *(jnp.zeros(x.size, jnp.float32) for x in (locations, weights))
    of_tables, of_locations, of_weights = lax.fori_loop(0, images * blocks.per_image, step, zeros)
    gradients = jnp.concatenate(of_tables), of_locations, of_weights
    of_value, of_locations, of_weights = (
        gradient.reshape(x.shape) for gradient, x in zip(gradients, saved, strict=True)
    )
    return of_value.astype(value.dtype), of_locations, of_weights


_attend.defvjp(_forward, _backward)


def _chains(blocks: Blocks) -> int:
    """How many blocks, of different images, a step of the backward loop takes side by side.

    Adding to a table keeps one core busy, and the next addition waits for it.
    """
    if blocks.images * blocks.per_image < 16:  # compiling more would not pay
        return 1
    return next(chains for chains in (4, 2, 1) if blocks.images % chains == 0)


def _rows(table: Array, rows: Array) -> Array:
    """Rows of the table, as (row, channel), in float32."""
    numbers = lax.GatherDimensionNumbers((1,), (0,), (0,))
    mode = lax.GatherScatterMode.PROMISE_IN_BOUNDS
    found = lax.gather(table, rows[:, None], numbers, (1, table.shape[1]), mode=mode)
    return found.astype(jnp.float32)


def _mix(blocks: Blocks, table: Array, rows: list[Array], shares: list[Array]) -> Array:
    """Sums over samples, as (row, channel).

    All samples' rows meet in one loop, which writes nothing but the sums. Several gathers and
    products of matrices, which write every sample, take four times as long.
    """

    def some(first, table, rows, shares):
        samples = range(first, min(first + AT_ONCE, blocks.samples))
        return sum(
            share[k :: blocks.samples, None] * _rows(table, row[k :: blocks.samples])
            for row, share in zip(rows, shares, strict=True)
            for k in samples
        )

    firsts = range(0, blocks.samples, AT_ONCE)
    return sum(apart(partial(some, first), table, rows, shares) for first in firsts)


def _dot(blocks: Blocks, table: Array, rows: Array, pull: Array) -> Array:
    """Each row of the table times its gradient, flat."""
    found = _rows(table, rows).reshape(blocks.rows, blocks.samples, blocks.width)
    return jnp.einsum("rsd,rd->rs", found, pull).reshape(-1)


def _spread(blocks: Blocks, table: Array, rows: Array, shares: Array, pull: Array) -> Array:
    """Add to rows of the table their shares of the gradient."""
    updates = shares.reshape(blocks.rows, blocks.samples, 1) * pull[:, None]
    numbers = lax.ScatterDimensionNumbers((1,), (0,), (0,))
    mode = lax.GatherScatterMode.PROMISE_IN_BOUNDS
    updates = updates.reshape(-1, blocks.width)
    return lax.scatter_add(table, rows[:, None], updates, numbers, mode=mode)


def _interleaved(x: Array, y: Array) -> Array:
    return jnp.stack([x, y], -1).reshape(-1)


def _without_first(rows: Array, count: Array) -> Array:
    """Blocks may overlap: what they add to one table is added once."""
    counts = lax.broadcasted_iota(jnp.int32, rows.shape, 0) >= count
    return lax.select(counts, rows, lax.full_like(rows, 0))

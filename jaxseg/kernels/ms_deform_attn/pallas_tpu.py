"""The sum of rows as kernels for TPUs, with the whole table of an image's head in VMEM.

A TPU has no gather of rows, but a row of 128 lanes can be loaded, or added to, at an address
from scalar memory. So a kernel first fetches its block's rows one by one and then works on them
as arrays. The gradient of a table is summed in VMEM in the order of the samples: no atomics, the
same bits each time. Each of the three kernels holds one table, so that VMEM need hold no two.

In a block samples are ordered (k, q), flat: n of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import gcd

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxseg.kernels.ms_deform_attn import quads
from jaxseg.kernels.ms_deform_attn.reference import Shapes
from jaxseg.typing import Array, Float

LANES = 128
# Of a block: its rows take 1 MB.
BLOCK_SAMPLES = 2048
UNROLL = 8
# What a kernel holds besides its table, in arrays of a block's rows, and bytes for smaller ones.
WORK_ARRAYS = 4
OTHER_BYTES = 3 * 2**18


def pallas_tpu(
    value: Float[Array, "b n m d"],
    shapes: Shapes,
    locations: Float[Array, "b q m l p 2"],
    weights: Float[Array, "b q m l p"],
    *,
    interpret: bool = False,
) -> Float[Array, "b q m*d"]:
    """Arguments and result as in `ms_deform_attn`.

    Args:
      interpret: run the kernels as plain operations, on any platform (for tests).
    """
    d = value.shape[-1]
    # Four neighbours must fill whole rows of lanes.
    missing = -d % (LANES // 4)
    padded = jnp.pad(value, ((0, 0), (0, 0), (0, 0), (0, missing)))
    bag = quads.with_gradients(partial(_mix, interpret), partial(_pull, interpret))
    mixed = quads.attend(bag, padded, shapes, locations, weights)
    mixed = mixed.reshape(*locations.shape[:3], d + missing)[..., :d]
    return mixed.reshape(*locations.shape[:2], -1)


@dataclass(frozen=True)
class Sizes:
    """What one table needs; `of` and `vmem` are also asked before anything is computed."""

    tables: int
    rows: int
    width: int  # of a row: four neighbours
    samples: int  # of a query
    queries: int

    @classmethod
    def of(cls, value, shapes: Shapes, locations) -> "Sizes":
        b, _, m, d = value.shape
        _, q, _, l, p, _ = locations.shape
        width = 4 * (d + -d % (LANES // 4))
        return cls(b * m, quads.count_rows(shapes), width, l * p, q)

    @property
    def block(self) -> int:
        """Queries of a block, whose samples fill whole lanes."""
        unit = max(8, LANES // gcd(self.samples, LANES))
        most = unit * max(1, BLOCK_SAMPLES // (unit * self.samples))
        return min(most, -(-self.queries // unit) * unit)

    @property
    def blocks(self) -> int:
        """Of a table."""
        return -(-self.queries // self.block)

    @property
    def vmem(self) -> int:
        """Bytes that a kernel takes."""
        table = self.rows * self.width * 4
        return table + WORK_ARRAYS * self.block * self.samples * self.width * 4 + OTHER_BYTES


def _mix(interpret, table, index, weights):
    run = partial(_run, _sizes(table, index), interpret)
    mixed = run(_mix_kernel, "result", index=index, table=table, weights=weights)
    return mixed[:, : index.shape[-1]]


def _pull(interpret, table, index, weights, cotangent):
    run = partial(_run, _sizes(table, index), interpret)
    of_table = run(_to_table_kernel, "table", index=index, weights=weights, result=cotangent)
    of_weights = run(_to_weights_kernel, "weights", index=index, table=table, result=cotangent)
    return of_table, of_weights


def _sizes(table, index) -> Sizes:
    g, r, c = table.shape
    return Sizes(g, r, c, index.shape[1], index.shape[2])


def _run(sizes: Sizes, interpret: bool, kernel: Callable, output: str, **inputs) -> Array:
    """Run a kernel over all tables and blocks of queries.

    Args:
      kernel: takes refs of the inputs in their order, of the output, and of room for the rows of
        a block's samples.
      output, inputs: what it makes and takes of "index", "table", "weights" and "result".
    """
    g, k, c, d = sizes.tables, sizes.samples, sizes.width, sizes.width // 4
    qb, blocks = sizes.block, sizes.blocks
    n = k * qb
    # A table is fetched once for all blocks of its queries: no second buffer for the next one.
    once = pl.Buffered(1)
    specs = {
        "index": pl.BlockSpec(
            (1, 1, n), lambda g, q: (g * blocks + q, 0, 0), memory_space=pltpu.SMEM
        ),
        "table": pl.BlockSpec((1, sizes.rows, c), lambda g, q: (g, 0, 0), pipeline_mode=once),
        "weights": pl.BlockSpec((1, 1, 4, n), lambda g, q: (g, q, 0, 0)),
        "result": pl.BlockSpec((1, qb, d), lambda g, q: (g, q, 0)),
    }
    made = {
        "table": (g, sizes.rows, c),
        "weights": (g, blocks, 4, n),
        "result": (g, blocks * qb, d),
    }
    found = pl.pallas_call(
        partial(kernel, sizes),
        grid=(g, blocks),
        in_specs=[specs[name] for name in inputs],
        out_specs=specs[output],
        out_shape=jax.ShapeDtypeStruct(made[output], jnp.float32),
        scratch_shapes=[pltpu.VMEM((n, c), jnp.float32)],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=sizes.vmem
        ),
        cost_estimate=_cost(sizes),
        name=f"ms_deform_attn{kernel.__name__}",
        interpret=interpret,
    )(*(_blocked(sizes, name, array) for name, array in inputs.items()))
    return _unblocked(sizes, found) if output == "weights" else found


def _blocked(sizes: Sizes, name: str, array: Array) -> Array:
    """An input in the layout in which kernels take it."""
    missing = sizes.block * sizes.blocks - sizes.queries
    if name == "table":
        return array.astype(jnp.float32)
    if name == "result":
        return jnp.pad(array.astype(jnp.float32), ((0, 0), (0, missing), (0, 0)))
    array = jnp.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, missing)])
    array = array.reshape(*array.shape[:-1], sizes.blocks, sizes.block)
    array = jnp.moveaxis(array, -2, 1)  # g blocks (4) k qb
    if name == "index":
        return array.reshape(sizes.tables * sizes.blocks, 1, -1)
    return array.reshape(sizes.tables, sizes.blocks, 4, -1)


def _unblocked(sizes: Sizes, weights: Array) -> Array:
    """Weights as `_blocked` takes them."""
    weights = weights.reshape(*weights.shape[:3], sizes.samples, sizes.block)
    weights = jnp.moveaxis(weights, 1, -2)
    return weights.reshape(*weights.shape[:3], -1)[..., : sizes.queries]


def _cost(sizes: Sizes) -> pl.CostEstimate:
    read = sizes.tables * sizes.blocks * sizes.block * sizes.samples
    table = sizes.tables * sizes.rows * sizes.width
    result = sizes.tables * sizes.queries * sizes.width // 4
    return pl.CostEstimate(
        flops=4 * read * sizes.width,
        bytes_accessed=4 * (table + 5 * read + result),
        transcendentals=0,
    )


def _mix_kernel(sizes, index, table, weights, mixed, rows):
    _for_each(sizes, index, lambda n, row: _copy(rows, n, table, row))
    products = rows[...] * _spread(weights[0, 0], sizes.width)
    total = products.reshape(sizes.samples, sizes.block, sizes.width).sum(0)
    mixed[0] = _product(total, _fold(sizes.width), ((1,), (0,)))


def _to_weights_kernel(sizes, index, table, cotangent, of_weights, rows):
    _for_each(sizes, index, lambda n, row: _copy(rows, n, table, row))
    products = rows[...] * _pulled(sizes, cotangent[0])
    of_weights[0, 0] = _product(_parts(sizes.width), products, ((1,), (1,)))


def _to_table_kernel(sizes, index, weights, cotangent, of_table, rows):
    @pl.when(pl.program_id(1) == 0)
    def _():
        of_table[...] = jnp.zeros_like(of_table)

    rows[...] = _spread(weights[0, 0], sizes.width) * _pulled(sizes, cotangent[0])

    def add(n, row):
        of_table[0, pl.ds(row, 1), :] += rows[pl.ds(n, 1), :]

    _for_each(sizes, index, add)


def _for_each(sizes: Sizes, index, act: Callable) -> None:
    """`act(n, row)` for all samples of a block, in order."""

    def some(step, _):
        for n in range(UNROLL):
            act(step * UNROLL + n, index[0, 0, step * UNROLL + n])
        return 0

    lax.fori_loop(0, sizes.samples * sizes.block // UNROLL, some, 0)


def _copy(rows, n, table, row) -> None:
    rows[pl.ds(n, 1), :] = table[0, pl.ds(row, 1), :]


def _pulled(sizes: Sizes, cotangent: Array) -> Array:
    """The gradient of the result, for each number of each sample's row."""
    wide = _product(cotangent, _fold(sizes.width), ((1,), (1,)))
    shape = (sizes.samples, *wide.shape)
    return jnp.broadcast_to(wide, shape).reshape(-1, sizes.width)


def _spread(weights: Array, width: int) -> Array:
    """Weights of four parts, (4, n), for each number of the rows, (n, width)."""
    return _product(weights, _parts(width), ((0,), (0,)))


def _parts(width: int) -> Array:
    """(4, width): 1 where a number of a row belongs to a part."""
    number = lax.broadcasted_iota(jnp.int32, (4, width), 1)
    return (number // (width // 4) == lax.broadcasted_iota(jnp.int32, (4, width), 0)).astype(
        jnp.float32
    )


def _fold(width: int) -> Array:
    """(width, width / 4): 1 where a number of a row is of a channel."""
    shape = (width, width // 4)
    number = lax.broadcasted_iota(jnp.int32, shape, 0)
    return (number % shape[1] == lax.broadcasted_iota(jnp.int32, shape, 1)).astype(jnp.float32)


def _product(left: Array, right: Array, axes) -> Array:
    """On the matrix unit, which rounds to bfloat16 unless asked for all bits."""
    return lax.dot_general(
        left,
        right,
        (axes, ((), ())),
        precision=lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )

"""Sums of all updates of each row without scattering: sort by row, sum runs, read run ends.

A scatter-add adds in whatever order a GPU's atomics arrive, so no two runs agree to the last
bit. Here nothing is ever written twice.
"""

import jax.numpy as jnp
from jax import lax

from jaxseg.typing import Array, Float, Int

# Sorted updates are summed within tiles by a small product, then across tiles by a scan.
TILE = 32


def add_by_row(
    table: Float[Array, "r c"], index: Int[Array, "k q"], updates: Float[Array, "k q c"]
) -> Float[Array, "r c"]:
    """Add to each row of the table all updates that are for it."""
    rows, updates = index.reshape(-1), updates.reshape(-1, updates.shape[-1])
    count = table.shape[0]
    tiles = -(-rows.size // TILE)
    order = lax.iota(jnp.int32, rows.size)
    rows, order = lax.sort((rows, order), num_keys=1)
    # Padding is for a row past the last, and of value zero.
    missing = tiles * TILE - rows.size
    rows = jnp.pad(rows, (0, missing), constant_values=count).reshape(tiles, TILE)
    updates = updates.at[order].get(mode="promise_in_bounds")
    updates = jnp.pad(updates, ((0, missing), (0, 0))).reshape(tiles, TILE, -1)

    same = (rows[:, :, None] == rows[:, None]).astype(jnp.float32)
    within = jnp.einsum("tij,tjc->tic", same, updates, precision=lax.Precision.HIGHEST)
    before = _carried(rows, within)
    ends = jnp.searchsorted(rows.reshape(-1), lax.iota(jnp.int32, count), side="right") - 1
    tile, found = ends // TILE, rows.reshape(-1)[ends] == lax.iota(jnp.int32, count)
    total = within.reshape(tiles * TILE, -1)[ends]
    goes_on = rows[tile, 0] == lax.iota(jnp.int32, count)
    total += jnp.where(goes_on[:, None], before[tile], 0)
    return table + jnp.where(found[:, None], total, 0)


def _carried(rows: Int[Array, "t i"], within: Float[Array, "t i c"]) -> Float[Array, "t c"]:
    """What earlier tiles hold of the row with which each tile begins."""
    first, last = rows[:, 0], rows[:, -1]
    # A tile's last row began in an earlier tile only if it fills this one.
    follows = jnp.concatenate([jnp.zeros(1, bool), first[1:] == last[:-1]])
    whole = follows & (first == last)

    def join(left, right):
        (begun, total), (fresh, addend) = left, right
        return begun | fresh, jnp.where(fresh[:, None], addend, total + addend)

    _, run = lax.associative_scan(join, (~whole, within[:, -1]))
    run = jnp.concatenate([jnp.zeros_like(run[:1]), run[:-1]])
    return jnp.where(follows[:, None], run, 0)

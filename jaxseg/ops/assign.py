"""Linear assignment on the device, by shortest augmenting paths (Jonker and Volgenant, 1987).

Written for padded problems under `vmap`: only real rows are visited, and nothing is scattered. On a
CPU that is 20 to 90 times as fast as `optax.assignment` at detectors' sizes.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxseg.typing import Array, Bool, Float, Int

LARGE = float(np.finfo(np.float32).max)


def assign(cost: Float[Array, "r c"], count: Int[Array, ""]) -> Int[Array, " r"]:
    """The columns of the first `count` rows, all different, of least total cost.

    Args:
      cost: in float32, with at least as many columns as rows. It ends with different columns on
        any numbers; numbers that are not finite make no least cost.

    Returns:
      The column of each row; -1 for the rows from `count` on.
    """
    rows, columns = cost.shape
    if columns < rows:
        raise ValueError(f"an assignment needs as many columns as rows; got {rows} × {columns}")

    def add(row, state: _Assigned) -> _Assigned:
        search = _search(cost, row, state)
        return _augment(row, _reprice(row, search, state), search)

    none = jnp.full(columns, -1), jnp.full(rows, -1)
    start = _Assigned(*none, jnp.zeros(rows), jnp.zeros(columns))
    return lax.fori_loop(0, count, add, start).column_of


class _Assigned(NamedTuple):
    """Who has whom, -1 for nobody, and the prices that no pair undercuts."""

    row_of: Int[Array, " c"]
    column_of: Int[Array, " r"]
    row_price: Float[Array, " r"]
    column_price: Float[Array, " c"]


class _Search(NamedTuple):
    """Shortest paths from one row to the columns.

    Attributes:
      length: of the path to the column visited last.
      near: of the best path known to each column.
      via: the row that this path comes from.
      visited: columns whose paths are final.
      column: visited last.
      row: who has it; the search goes on from there.
    """

    length: Float[Array, ""]
    near: Float[Array, " c"]
    via: Int[Array, " c"]
    visited: Bool[Array, " c"]
    column: Int[Array, ""]
    row: Int[Array, ""]


def _search(cost, row, state: _Assigned) -> _Search:
    """Until a column that nobody has."""
    columns = jnp.arange(cost.shape[1])

    def visit(search: _Search) -> _Search:
        reach = cost[search.row] - state.row_price[search.row] - state.column_price
        reach += search.length
        closer = ~search.visited & (reach < search.near)
        near = jnp.where(closer, reach, search.near)
        # Paths are at most `LARGE`, so that none leads back to a visited column.
        open_ = jnp.where(search.visited, jnp.inf, near)
        column = jnp.argmin(open_)
        return _Search(
            length=open_[column],
            near=near,
            via=jnp.where(closer, search.row, search.via),
            visited=search.visited | (columns == column),
            column=column,
            row=state.row_of[column],
        )

    start = _Search(
        length=jnp.zeros(()),
        near=jnp.full(columns.shape, LARGE),
        via=jnp.full(columns.shape, row),
        visited=jnp.zeros(columns.shape, bool),
        column=jnp.zeros((), int),
        row=jnp.asarray(row),
    )
    return lax.while_loop(lambda search: search.row >= 0, visit, start)


def _reprice(row, search: _Search, state: _Assigned) -> _Assigned:
    """Prices at which all pairs of the path cost nothing more."""
    slack = jnp.where(search.visited, search.length - search.near, 0)
    has = jnp.where(state.column_of >= 0, slack[state.column_of], 0)
    added = jnp.where(jnp.arange(len(has)) == row, search.length, has)
    return state._replace(
        row_price=state.row_price + added, column_price=state.column_price - slack
    )


def _augment(row, state: _Assigned, search: _Search) -> _Assigned:
    """Hand on columns along the path, from its end."""
    rows, columns = (jnp.arange(len(x)) for x in (state.column_of, state.row_of))

    def hand_on(carried):
        row_of, column_of, column, _ = carried
        taker = search.via[column]
        left = column_of[taker]
        row_of = jnp.where(columns == column, taker, row_of)
        column_of = jnp.where(rows == taker, column, column_of)
        return row_of, column_of, left, taker

    start = state.row_of, state.column_of, search.column, jnp.asarray(-1)
    row_of, column_of, *_ = lax.while_loop(lambda carried: carried[3] != row, hand_on, start)
    return state._replace(row_of=row_of, column_of=column_of)

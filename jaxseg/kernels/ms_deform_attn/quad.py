"""The quad-packed form in plain XLA: at once, or a chunk of one table's queries at a time."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from jaxseg.kernels.ms_deform_attn import quads
from jaxseg.kernels.ms_deform_attn.segments import add_by_row
from jaxseg.typing import Array, Float, Int

# Of the table rows that a chunk reads; its gradient holds three or four arrays of that size.
CHUNK_BYTES = 2**26


def mix(
    table: Float[Array, "r c"], index: Int[Array, "k q"], weights: Float[Array, "4 k q"]
) -> Float[Array, "q d"]:
    """Weighted sums of rows of one table."""
    rows = _read(table, index) * _spread(weights, table.shape[1])
    return rows.sum(0).reshape(index.shape[1], 4, -1).sum(1)


def to_weights(table, index, cotangent) -> Float[Array, "4 k q"]:
    """Gradient of the weights: each part of a row times the gradient of the result."""
    products = _read(table, index) * jnp.tile(cotangent, 4)
    return jnp.moveaxis(products.reshape(*index.shape, 4, -1).sum(-1), -1, 0)


def to_updates(weights, cotangent) -> Float[Array, "k q c"]:
    """What each sample adds to the gradient of the row it read."""
    return _spread(weights, 4 * cotangent.shape[1]) * jnp.tile(cotangent, 4)


def scatter(table, index, updates) -> Float[Array, "r c"]:
    """Add updates to the rows they are for; on a GPU with atomics, in any order."""
    return table.at[index].add(updates, mode="promise_in_bounds")


def _read(table, index) -> Float[Array, "k q c"]:
    return table.at[index].get(mode="promise_in_bounds").astype(jnp.float32)


def _spread(weights, width) -> Float[Array, "k q c"]:
    """Weights of a row's four parts, for each of its numbers."""
    _, k, q = weights.shape
    parts = jnp.broadcast_to(jnp.moveaxis(weights, 0, -1)[..., None], (k, q, 4, width // 4))
    return parts.reshape(k, q, width)


def _pull(table, index, weights, cotangent):
    updates = to_updates(weights, cotangent)
    of_table = scatter(jnp.zeros(table.shape, jnp.float32), index, updates)
    return of_table, to_weights(table, index, cotangent)


def _mix_in_chunks(table, index, weights):
    """`mix`, a chunk of the queries at a time."""
    cut = partial(_cut, count=_chunks(table, index))
    mixed = lax.map(lambda part: mix(table, *part), (cut(index), cut(weights)))
    return mixed.reshape(-1, mixed.shape[-1])[: index.shape[1]]


def _to_weights_in_chunks(table, index, cotangent):
    cut = partial(_cut, count=_chunks(table, index))
    chunks = cut(index), cut(cotangent.T)
    found = lax.map(lambda part: to_weights(table, part[0], part[1].T), chunks)
    found = jnp.moveaxis(found, 0, -2)  # (4, k, chunk, q)
    return found.reshape(*found.shape[:2], -1)[..., : index.shape[1]]


def _to_table_in_chunks(add: Callable, table, index, weights, cotangent):
    """Gradient of the table, its rows summed by `add`."""
    cut = partial(_cut, count=_chunks(table, index))

    def step(of_table, part):
        index, weights, cotangent = part
        return add(of_table, index, to_updates(weights, cotangent.T)), None

    zeros = jnp.zeros(table.shape, jnp.float32)
    of_table, _ = lax.scan(step, zeros, (cut(index), cut(weights), cut(cotangent.T)))
    return of_table


def _pull_in_chunks(table, index, weights, cotangent):
    of_table = _to_table_in_chunks(scatter, table, index, weights, cotangent)
    return of_table, _to_weights_in_chunks(table, index, cotangent)


def _chunks(table, index) -> int:
    read = index.size * table.shape[1] * 4
    return min(index.shape[1], max(1, round(read / CHUNK_BYTES)))


def _cut(array: Array, count: int) -> Array:
    """Cut the last axis, padded with zeros, into chunks that become the first axis."""
    size = -(-array.shape[-1] // count)
    array = jnp.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, size * count - array.shape[-1])])
    return jnp.moveaxis(array.reshape(*array.shape[:-1], count, size), -2, 0)


def _each(function: Callable) -> Callable:
    """One table after the other."""
    return lambda *arguments: lax.map(lambda of_one: function(*of_one), arguments)


table_gradient_in_order = _each(partial(_to_table_in_chunks, add_by_row))


def _pull_in_order(table, index, weights, cotangent):
    of_table = table_gradient_in_order(table, index, weights, cotangent)
    return of_table, jax.vmap(to_weights)(table, index, cotangent)


quad = partial(quads.attend, quads.with_gradients(jax.vmap(mix), jax.vmap(_pull)))
chunked = partial(quads.attend, quads.with_gradients(_each(_mix_in_chunks), _each(_pull_in_chunks)))
# A GPU's compiler fuses gathers into the sums over them: only scattering needs care there.
ordered = partial(quads.attend, quads.with_gradients(jax.vmap(mix), _pull_in_order))

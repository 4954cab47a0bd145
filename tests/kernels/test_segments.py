"""Sums by row without scattering."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.kernels.ms_deform_attn.segments import TILE, add_by_row


@pytest.mark.parametrize(
    ("rows", "samples"),
    [(5, 400), (50, 21), (1000, 1200), (1, 1), (1, 10 * TILE), (3, TILE), (TILE, TILE + 1)],
)
def test_all_updates_of_a_row_are_added_once(rows, samples):
    rng = np.random.default_rng(rows)
    index = rng.integers(0, rows, (1, samples)).astype(np.int32)
    updates = rng.normal(size=(1, samples, 3)).astype(np.float32)
    table = rng.normal(size=(rows, 3)).astype(np.float32)
    wanted = table.astype(np.float64)
    np.add.at(wanted, index[0], updates[0])
    np.testing.assert_allclose(
        add_by_row(*map(jnp.asarray, (table, index, updates))), wanted, rtol=0, atol=1e-4
    )


def test_rows_that_fill_tiles_exactly_do_not_run_into_their_neighbours():
    index = np.repeat(np.arange(4), [TILE, 2 * TILE, 1, TILE - 1])[None].astype(np.int32)
    ones = np.ones((*index.shape, 1), np.float32)
    sums = jax.jit(add_by_row)(jnp.zeros((6, 1)), jnp.asarray(index), jnp.asarray(ones))
    assert sums[:, 0].tolist() == [TILE, 2 * TILE, 1, TILE - 1, 0, 0]

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from jaxseg.losses.matching import match

match_all = jax.jit(jax.vmap(match))


def pairs_of(matching, i):
    mask = np.asarray(matching.mask[i])
    return np.asarray(matching.query[i])[mask], np.nonzero(mask)[0]


def assert_as_cheap_as_scipy(cost, counts):
    mask = np.arange(cost.shape[2]) < counts[:, None]
    matching = match_all(jnp.asarray(cost), jnp.asarray(mask))
    for i, count in enumerate(counts):
        query, target = pairs_of(matching, i)
        rows, columns = linear_sum_assignment(cost[i, :, :count])
        assert len(query) == len(rows) == min(cost.shape[1], count)
        assert len(set(query.tolist())) == len(query)
        best = cost[i][rows, columns].astype(np.float64).sum()
        ours = cost[i][query, target].astype(np.float64).sum()
        assert ours == pytest.approx(best, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize(("queries", "slots"), [(10, 6), (6, 10), (8, 8), (1, 5), (20, 1)])
def test_the_cost_is_scipys_on_random_and_tied_costs(queries, slots):
    rng = np.random.default_rng(queries * 100 + slots)
    shape = (400, queries, slots)
    counts = rng.integers(0, slots + 1, 400)
    assert_as_cheap_as_scipy(rng.normal(size=shape).astype(np.float32), counts)
    assert_as_cheap_as_scipy(rng.integers(-2, 3, shape).astype(np.float32), counts)
    assert_as_cheap_as_scipy(np.zeros(shape, np.float32), counts)
    scaled = rng.normal(size=shape) * 10.0 ** rng.integers(-3, 4, (400, 1, 1))
    assert_as_cheap_as_scipy(scaled.astype(np.float32), counts)


def test_a_detectors_size_matches_as_scipy_does():
    rng = np.random.default_rng(0)
    cost = rng.normal(size=(20, 100, 60)).astype(np.float32)
    assert_as_cheap_as_scipy(cost, rng.integers(0, 61, 20))


def test_more_targets_than_queries_leave_the_dearest_targets_out():
    cost = jnp.array([[1.0, 5.0, 2.0, 0.0], [4.0, 0.5, 2.0, 0.0]])
    matching = match(cost, jnp.array([True, True, True, False]))
    np.testing.assert_array_equal(matching.mask, [True, True, False, False])
    np.testing.assert_array_equal(matching.query[:2], [0, 1])


def test_what_lies_in_empty_slots_changes_nothing():
    rng = np.random.default_rng(1)
    cost = rng.normal(size=(6, 9)).astype(np.float32)
    mask = np.arange(9) < 4
    clean = match(jnp.asarray(cost), jnp.asarray(mask))
    for junk in (np.nan, np.inf, -np.inf, 1e30, -1e30):
        other = np.where(mask, cost, junk).astype(np.float32)
        np.testing.assert_array_equal(match(jnp.asarray(other), jnp.asarray(mask)), clean)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_costs_that_are_not_finite_end_and_are_the_last_choice(poison):
    rng = np.random.default_rng(2)
    cost = rng.normal(size=(50, 7, 5)).astype(np.float32)
    cost[:, 3] = poison  # a query that must not be chosen while six others serve five targets
    mask = np.ones((50, 5), bool)
    matching = match_all(jnp.asarray(cost), jnp.asarray(mask))
    assert np.asarray(matching.mask).all()
    assert (np.asarray(matching.query) != 3).all()
    everything = match_all(jnp.full((2, 7, 5), poison), jnp.ones((2, 5), bool))
    assert all(len(set(row)) == 5 for row in np.asarray(everything.query).tolist())


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("queries", "slots"), [(6, 6), (10, 6), (6, 10), (100, 30)])
def test_scattered_costs_that_are_not_finite_are_avoided_as_far_as_scipy_can(
    queries, slots, poison
):
    rng = np.random.default_rng(queries)
    shape = (1000 if queries < 100 else 20, queries, slots)
    finite = rng.normal(size=shape).astype(np.float32)
    bad = rng.random(shape) < 0.3
    counts = rng.integers(0, slots + 1, len(finite))
    mask = np.arange(slots) < counts[:, None]
    matching = match_all(jnp.asarray(np.where(bad, poison, finite)), jnp.asarray(mask))
    # scipy refuses NaN; a number larger than any sum of the others means the same
    known = np.where(bad, 1e4, finite).astype(np.float64)
    for i, count in enumerate(counts):
        query, target = pairs_of(matching, i)
        best = known[i][linear_sum_assignment(known[i, :, :count])].sum()
        assert len(query) == min(queries, count)
        assert known[i][query, target].sum() == pytest.approx(best, abs=1e-3)


def test_nothing_to_match_is_no_match():
    assert match(jnp.zeros((3, 0)), jnp.zeros(0, bool)).query.shape == (0,)
    assert not match(jnp.zeros((0, 3)), jnp.ones(3, bool)).mask.any()
    assert not match(jnp.zeros((4, 3)), jnp.zeros(3, bool)).mask.any()

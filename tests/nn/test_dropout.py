import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.nn.dropout import Dropout, random_words


def drop(rate, x, seed=0, train=True):
    return Dropout(rate).apply({}, x, train=train, rngs={"dropout": jax.random.key(seed)})


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_rate_is_dropped_and_the_mean_is_kept(rate):
    dropped = np.asarray(drop(rate, jnp.ones((200, 1001))))
    spread = (rate * (1 - rate) / dropped.size) ** 0.5
    assert (dropped == 0).mean() == pytest.approx(rate, abs=5 * spread)
    np.testing.assert_allclose(dropped[dropped != 0], 1 / (1 - rate), rtol=1e-4)


def test_neighbours_and_calls_fall_independently():
    kept = np.asarray(drop(0.5, jnp.ones((500, 1000)))) != 0
    for shifted in (kept[:, 1:] ^ kept[:, :-1], kept[1:] ^ kept[:-1]):
        assert shifted.mean() == pytest.approx(0.5, abs=0.005)
    assert (kept ^ (np.asarray(drop(0.5, jnp.ones((500, 1000)), seed=1)) != 0)).mean() > 0.49


def test_words_are_uniform():
    words = np.asarray(random_words(jax.random.key(0), (300, 1001)))
    assert words.dtype == np.uint16
    assert words.shape == (300, 1001)
    counts, _ = np.histogram(words, 64, (0, 1 << 16))
    assert np.abs(counts / counts.mean() - 1).max() < 0.08


def test_nothing_falls_outside_training_or_at_rate_zero_and_everything_at_one():
    x = jnp.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(drop(0.5, x, train=False), x)
    np.testing.assert_array_equal(Dropout(0.0).apply({}, x, train=True), x)
    np.testing.assert_array_equal(drop(1.0, x), 0 * x)
    with pytest.raises(ValueError, match=r"in \[0, 1\]; got 1\.5"):
        drop(1.5, x)


def test_it_differentiates_and_keeps_the_dtype():
    x = jnp.full((4, 6), 2.0, jnp.bfloat16)
    assert drop(0.3, x).dtype == jnp.bfloat16
    gradient = jax.grad(lambda x: drop(0.3, x).sum())(jnp.ones((4, 6)))
    np.testing.assert_array_equal(gradient, drop(0.3, jnp.ones((4, 6))))


def test_it_falls_alike_on_one_device_and_under_jit():
    x = jnp.ones((8, 12))
    np.testing.assert_array_equal(drop(0.4, x), jax.jit(lambda x: drop(0.4, x))(x))

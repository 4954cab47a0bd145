import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxseg.ops.pool import max_pool


@pytest.mark.parametrize(("window", "stride", "padding"), [(3, 2, 1), (2, 2, 0), (3, 1, 1)])
@pytest.mark.parametrize("size", [(8, 12), (7, 9), (3, 2)])
def test_values_and_gradients_are_torchs_with_ties_too(window, stride, padding, size):
    rng = np.random.default_rng(0)
    # whole numbers, half of them zero: nearly every window has ties
    x = np.maximum(rng.integers(-3, 4, (2, *size, 3)), 0).astype(np.float32)
    theirs = torch.tensor(x).permute(0, 3, 1, 2).requires_grad_()
    pooled = torch.nn.functional.max_pool2d(theirs, window, stride, padding)
    pull = rng.normal(size=pooled.shape).astype(np.float32)
    pooled.backward(torch.tensor(pull))

    ours, back = jax.vjp(lambda x: max_pool(x, window, stride, padding), jnp.asarray(x))
    np.testing.assert_array_equal(ours, pooled.detach().permute(0, 2, 3, 1))
    gradient = back(jnp.asarray(pull.transpose(0, 2, 3, 1)))[0]
    np.testing.assert_allclose(gradient, theirs.grad.permute(0, 2, 3, 1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("place", range(4))
def test_what_is_not_a_number_stays_so_wherever_it_lies(place):
    x = np.zeros((1, 2, 2, 1), np.float32)
    x.flat[place] = np.nan
    assert np.isnan(max_pool(jnp.asarray(x), 2, 2)).all()


def test_padding_is_less_than_anything():
    x = -jnp.arange(1.0, 5).reshape(1, 2, 2, 1)
    np.testing.assert_array_equal(max_pool(x, 3, 2, 1)[0, :, :, 0], [[-1.0]])

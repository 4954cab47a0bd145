import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxseg.nn.transposed_conv import TransposedConv
from jaxseg.nn.vision import DropPath, GeluMlp, PatchEmbed, drop_path_rates
from tests.weights import draw


def test_patches_are_a_convolution_of_an_image_filled_up_with_zeros():
    pixels = np.random.default_rng(0).normal(size=(2, 9, 6, 3)).astype(np.float32)
    module = PatchEmbed(5, 4)
    params = draw(module, jnp.asarray(pixels))
    ours = module.apply({"params": params}, jnp.asarray(pixels))
    padded = np.pad(pixels, ((0, 0), (0, 3), (0, 2), (0, 0)))
    theirs = torch.nn.functional.conv2d(
        torch.from_numpy(padded.transpose(0, 3, 1, 2).copy()),
        torch.from_numpy(params["kernel"].transpose(3, 2, 0, 1).copy()),
        torch.from_numpy(params["bias"]),
        stride=4,
    )
    assert ours.shape == (2, 3, 2, 5)
    np.testing.assert_allclose(ours, theirs.permute(0, 2, 3, 1), atol=1e-5)


def test_a_transposed_convolution_is_torchs():
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 6)).astype(np.float32)
    module = TransposedConv(5)
    params = draw(module, jnp.asarray(x))
    theirs = torch.nn.functional.conv_transpose2d(
        torch.from_numpy(x.transpose(0, 3, 1, 2).copy()),
        torch.from_numpy(params["kernel"].transpose(3, 2, 0, 1).copy()),  # in, out, h, w
        torch.from_numpy(params["bias"]),
        stride=2,
    )
    ours = module.apply({"params": params}, jnp.asarray(x))
    np.testing.assert_allclose(ours, theirs.permute(0, 2, 3, 1), atol=1e-5)


def test_the_activation_is_the_exact_gelu():
    one = {"kernel": np.ones((1, 1), np.float32), "bias": np.zeros(1, np.float32)}
    y = GeluMlp(1).apply({"params": {"linear1": one, "linear2": one}}, jnp.array([[-1.0]]))
    np.testing.assert_allclose(y, [[-0.15865526]], atol=1e-7)  # −Φ(−1); the tanh form: −0.158808


def test_a_dropped_path_is_dropped_for_whole_images():
    x = jnp.ones((4000, 2, 3))
    dropped = DropPath(0.25).apply({}, x, train=True, rngs={"dropout": jax.random.key(0)})
    kept = np.asarray(dropped[:, 0, 0] > 0)
    np.testing.assert_allclose(dropped, kept[:, None, None] * np.ones((1, 2, 3)) / 0.75)
    assert abs(kept.mean() - 0.75) < 0.03


def test_a_path_stays_in_evaluation_and_with_rate_zero():
    x = jnp.ones((2, 3))
    assert DropPath(0.5).apply({}, x, train=False) is x
    assert DropPath(0.0).apply({}, x, train=True) is x
    with pytest.raises(ValueError, match=r"in \[0, 1\); got 1.0"):
        DropPath(1.0).apply({}, x, train=True)


def test_rates_lie_on_a_line_from_zero():
    assert drop_path_rates(0.2, 5) == pytest.approx([0.0, 0.05, 0.1, 0.15, 0.2])
    assert drop_path_rates(0.2, 1) == [0.0]

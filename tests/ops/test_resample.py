"""Tables of positions at other sizes, as torch resizes them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxseg.ops.resample import interpolation_matrix, resize_grid, source_positions

GRID = np.random.default_rng(0).normal(size=(5, 7, 3)).astype(np.float32)
resize = jax.jit(resize_grid, static_argnums=(1, 2, 3))


def torch_resize(size, mode):
    x = torch.from_numpy(GRID).permute(2, 0, 1)[None]
    y = torch.nn.functional.interpolate(x, size, mode=mode, align_corners=False)
    return y[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("size", [(9, 20), (3, 4), (5, 8), (1, 1)])
@pytest.mark.parametrize(("method", "mode"), [("cubic", "bicubic"), ("linear", "bilinear")])
def test_grids_are_resized_as_torch_does_it(size, method, mode):
    ours = resize(GRID, *size, method)[0]
    np.testing.assert_allclose(ours, torch_resize(size, mode), atol=5e-6)


def test_a_grid_of_the_right_size_stays_bit_for_bit():
    np.testing.assert_array_equal(resize_grid(jnp.asarray(GRID), 5, 7)[0], GRID)
    fitted = resize(GRID, 8, 9, sizes=jnp.array([[5, 7]]))
    np.testing.assert_array_equal(fitted[0, :5, :7], GRID)


def test_each_image_of_a_canvas_gets_the_grid_of_its_own_size():
    sizes = [(6, 4), (11, 9), (5, 7)]
    fitted = resize(GRID, 11, 10, sizes=jnp.array([*sizes, (0, 0)]))
    assert np.isfinite(fitted).all()
    for (h, w), one in zip(sizes, fitted, strict=False):
        np.testing.assert_allclose(one[:h, :w], torch_resize((h, w), "bicubic"), atol=5e-6)


def test_a_line_is_resized_as_torch_does_it():
    line = GRID[:, 0]  # 5 × 3
    positions = source_positions(jnp.arange(9.0), 9, 5)
    ours = interpolation_matrix(positions, 5, "linear") @ line
    x = torch.from_numpy(line).T[None]
    theirs = torch.nn.functional.interpolate(x, 9, mode="linear")[0].T
    np.testing.assert_allclose(ours, theirs, atol=1e-6)

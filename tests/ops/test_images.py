import jax.numpy as jnp
import numpy as np
import torch

from jaxseg.ops.images import canvas_mask, normalize, resize_mask
from jaxseg.ops.masks import resize_bilinear, resize_nearest
from jaxseg.structures import Images


def test_a_mask_is_true_on_the_image_and_nowhere_else():
    mask = canvas_mask(jnp.array([[2, 3]]), 3, 4)
    np.testing.assert_array_equal(
        mask[0],
        [
            [True, True, True, False],
            [True, True, True, False],
            [False, False, False, False],
        ],
    )


def test_padding_is_zero_after_normalisation():
    images = Images(jnp.full((1, 2, 2, 3), 255, jnp.uint8), jnp.array([[[True, False]] * 2]))
    pixels = normalize(images).pixels
    expected = (1 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(pixels[0, 0, 0], expected, rtol=1e-6)
    np.testing.assert_array_equal(pixels[0, :, 1], 0)


def test_bytes_and_shares_of_one_normalise_alike():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, -1)
    mask = jnp.ones((1, 16, 16), bool)
    from_bytes = normalize(Images(jnp.asarray(levels), mask)).pixels
    from_floats = normalize(Images(jnp.asarray(levels, jnp.float32) / 255, mask)).pixels
    np.testing.assert_array_equal(from_bytes, from_floats)


def test_masks_and_maps_resize_as_torch_resizes_them():
    rng = np.random.default_rng(0)
    for old, new in (((7, 9), (4, 5)), ((5, 6), (13, 11)), ((333, 17), (11, 1)), ((3, 3), (3, 3))):
        x = rng.normal(size=(2, *old)).astype(np.float32)
        nearest = torch.nn.functional.interpolate(torch.tensor(x)[None], size=new)[0]
        np.testing.assert_array_equal(resize_nearest(jnp.asarray(x), new), nearest)
        np.testing.assert_array_equal(resize_mask(jnp.asarray(x > 0), *new), nearest > 0)
        bilinear = torch.nn.functional.interpolate(torch.tensor(x)[None], size=new, mode="bilinear")
        np.testing.assert_allclose(
            resize_bilinear(jnp.asarray(x), new), bilinear[0], rtol=0, atol=2e-6
        )

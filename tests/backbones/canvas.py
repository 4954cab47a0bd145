"""Whether a backbone's result on an image is the same on any canvas and beside any neighbours."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.quick import quick_jit
from tests.weights import draw


def assert_canvas_exact(net, sizes, canvases, atol=2e-5):
    """Compare images alone with the same images on canvases full of noise, and an empty one."""
    generator = np.random.default_rng(0)
    images = [generator.normal(size=(*size, 3)).astype(np.float32) for size in sizes]
    params = draw(net, jnp.zeros((1, 32, 32, 3)))

    @quick_jit
    def forward(pixels, mask=None):
        return net.apply({"params": params}, pixels, mask)

    with jax.default_matmul_precision("highest"):
        alone = [forward(image[None]) for image in images]
        for height, width in canvases:
            shape = (len(images) + 1, height, width)
            pixels = 1e3 * generator.normal(size=(*shape, 3)).astype(np.float32)
            mask = np.zeros(shape, bool)
            for i, image in enumerate(images):
                h, w = image.shape[:2]
                pixels[i, :h, :w], mask[i, :h, :w] = image, True
            together = forward(pixels, mask)
            for level, wanted in enumerate(zip(*alone, strict=True)):
                assert np.isfinite(together[level]).all()
                for ours, one in zip(together[level], wanted, strict=False):
                    h, w = one.shape[1:3]
                    np.testing.assert_allclose(ours[:h, :w], one[0], atol=atol)

"""What the kinds share: images as the originals batch them, config values, layouts."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.structures import Images
from tests.quick import quick_jit


def batch_images(config: dict, images: list[np.ndarray]) -> Images:
    """Normalise in float32, then pad with zeros at the bottom and right to the batch's maximum."""
    expect(config, resize=None, value_range=[0.0, 1.0], channels="RGB")
    height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))
    pixels = np.zeros((len(images), height, width, 3), np.float32)
    mask = np.zeros((len(images), height, width), bool)
    for i, image in enumerate(images):
        h, w = image.shape[:2]
        mean, std = (np.asarray(config[name], np.float32) for name in ("mean", "std"))
        pixels[i, :h, :w] = (image - mean) / std
        mask[i, :h, :w] = True
    return Images(jnp.asarray(pixels), jnp.asarray(mask))


def compute(forward: Callable, params, scalar: Callable | None = None) -> tuple:
    """`forward(params)`, and the gradient of `scalar` of it or None: one program, quickly made."""
    if scalar is None:
        return quick_jit(forward)(params), None

    def both(params):
        output = forward(params)
        return scalar(output), output

    gradient, output = quick_jit(jax.grad(both, has_aux=True))(params)
    return output, gradient


def case_images(spec: dict, inputs: dict, names: list[str] | None = None) -> Images:
    """The drawn images `image0`, `image1`, … (or those named) as one batch."""
    if names is None:
        names = sorted((n for n in inputs if n.startswith("image")), key=lambda n: int(n[5:]))
    return batch_images(spec["config"]["image"], [inputs[name] for name in names])


def expect(config: dict, **allowed) -> None:
    """Refuse a case whose value differs from the one that the model has built in."""
    for name, value in allowed.items():
        if name in config and config[name] != value:
            raise ValueError(f"config.{name} must be {value!r}; got {config[name]!r}")


def nchw(x) -> np.ndarray:
    """(b, h, w, c) to (b, c, h, w)."""
    return np.moveaxis(np.asarray(x), -1, 1)


def padding(mask) -> np.ndarray:
    """Ours is True on real pixels, theirs on padding."""
    return ~np.asarray(mask)


def by_name(**tensors) -> dict:
    """Whole tensors under the names of KINDS.md, dots written as double underscores."""
    return {name.replace("__", "."): np.asarray(value) for name, value in tensors.items()}

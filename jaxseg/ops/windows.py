"""Windows of a feature map (Swin, arXiv 2103.14030, section 3.2; ViTDet, arXiv 2203.16527).

A map is filled up with zeros at the bottom and right to whole windows, which are taken row by row.
"""

import jax.numpy as jnp
import numpy as np

from jaxseg.typing import Array, Bool, Int, Shaped


def pad_to_multiple(x: Shaped[Array, "b h w c"], multiple: int) -> Shaped[Array, "b _h _w c"]:
    """Zeros at the bottom and right, up to multiples of `multiple`."""
    height, width = x.shape[1:3]
    return jnp.pad(x, ((0, 0), (0, -height % multiple), (0, -width % multiple), (0, 0)))


def to_windows(
    x: Shaped[Array, "b h w c"], size: int, shift: int = 0
) -> Shaped[Array, "b n {size} {size} c"]:
    """The n windows of each map; first rolled up and left by `shift`, so that it wraps around."""
    x = pad_to_multiple(x, size)
    if shift:
        x = jnp.roll(x, (-shift, -shift), (1, 2))
    b, h, w, c = x.shape
    x = x.reshape(b, h // size, size, w // size, size, c)
    return x.swapaxes(2, 3).reshape(b, -1, size, size, c)


def from_windows(
    windows: Shaped[Array, "b n size size c"], height: int, width: int, shift: int = 0
) -> Shaped[Array, "b {height} {width} c"]:
    """The inverse of `to_windows`, without what filled the map up."""
    b, _, size, _, c = windows.shape
    rows, columns = -(-height // size), -(-width // size)
    x = windows.reshape(b, rows, columns, size, size, c).swapaxes(2, 3)
    x = x.reshape(b, rows * size, columns * size, c)
    if shift:
        x = jnp.roll(x, (shift, shift), (1, 2))
    return x[:, :height, :width]


def extents(mask: Bool[Array, "b h w"]) -> Int[Array, "b 2"]:
    """Height and width of the images that lie at the top left of a canvas."""
    return jnp.stack([mask.any(2).sum(1), mask.any(1).sum(1)], -1).astype(jnp.int32)


def shift_regions(
    sizes: Int[Array, "b 2"], height: int, width: int, size: int, shift: int
) -> Int[Array, "b n {size}*{size}"]:
    """Labels of the tokens in shifted windows; tokens of one label attend to each other.

    Rolling brings the top rows below the last ones, which are no neighbours, so both have
    labels of their own (figure 4 of the Swin paper). What lies beyond the windows that an image
    reaches into has another: the image's shifted windows are then those it has alone, whatever
    the canvas. Tokens that only fill up those windows belong to the image.

    Args:
      sizes: (h, w) of each image on the map; one row serves all images of a batch.
      height, width: of the map.
      size, shift: of the windows.
    """
    rows = _axis_regions(sizes[:, 0], height, size, shift)
    columns = _axis_regions(sizes[:, 1], width, size, shift)
    labels = (3 * rows[:, :, None] + columns[:, None, :])[..., None]
    return to_windows(labels, size).reshape(len(sizes), -1, size * size)


def _axis_regions(extent, length: int, size: int, shift: int):
    length += -length % size
    position = (jnp.arange(length) + shift) % length  # before the roll
    own = extent + -extent % size
    wrapped, inside = position < shift, position < own[:, None]
    return jnp.where(wrapped, 2, jnp.where(inside, 1, 0))


def relative_position_index(size: int) -> np.ndarray:
    """Which row of a table of (2·size − 1)² offsets stands for query i and key j of a window.

    Offsets are query minus key, rows first. Shape (size², size²), int64.
    """
    rows, columns = (axis.reshape(-1) for axis in np.indices((size, size)))
    down = rows[:, None] - rows[None, :] + size - 1
    right = columns[:, None] - columns[None, :] + size - 1
    return down * (2 * size - 1) + right

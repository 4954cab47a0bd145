"""How tables of position embeddings lie in checkpoints, and how they come to another size.

Resizing is torch's: bicubic in two dimensions, linear in one, half-pixel centres, no antialiasing.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.ops.resample import interpolation_matrix, resize_grid, source_positions
from jaxseg.ops.windows import relative_position_index
from jaxseg_convert_torch.table import Layout

Shape = tuple[int, ...]


def _resize(grid: np.ndarray, height: int, width: int) -> np.ndarray:
    if grid.shape[:2] == (height, width):
        return grid
    resized = jax.jit(resize_grid, static_argnums=(1, 2))(grid.astype(np.float32), height, width)
    return np.asarray(resized[0])


def _side(count: int) -> int | None:
    side = math.isqrt(count)
    return side if side * side == count else None


def read_offsets(value: np.ndarray, wanted: Shape) -> np.ndarray:
    """Swin's bias of the (2w − 1)² offsets in a window; each head's grid is resized."""
    if value.ndim != 2 or len(wanted) != 2 or value.shape[1] != wanted[1]:
        return value
    old, new = _side(value.shape[0]), _side(wanted[0])
    if old is None or new is None:
        return value
    return _resize(value.reshape(old, old, -1), new, new).reshape(wanted)


def read_axis(value: np.ndarray, wanted: Shape) -> np.ndarray:
    """ViTDet's relative positions along one axis, (2n − 1, width of a head)."""
    if value.ndim != 2 or len(wanted) != 2 or value.shape[1] != wanted[1] or value.shape == wanted:
        return value
    old, new = value.shape[0], wanted[0]
    positions = source_positions(jnp.arange(new, dtype=jnp.float32), new, old)
    matrix = interpolation_matrix(positions, old, "linear")
    return np.asarray(matrix, np.float64) @ np.asarray(value, np.float64)


def read_grid(value: np.ndarray, wanted: Shape) -> np.ndarray:
    """Absolute positions to (1, h, w, c).

    They may come as that, as (1, c, h, w), or as (1, tokens, c) of a square, with or without a
    class token before it, which no detector has.
    """
    if len(wanted) != 4 or value.shape[:1] != (1,):
        return value
    _, height, width, channels = wanted
    if value.ndim == 3 and value.shape[2] == channels:
        for tokens in (value[0], value[0, 1:]):
            if side := _side(len(tokens)):
                return _resize(tokens.reshape(side, side, channels), height, width)[None]
    if value.ndim == 4 and value.shape[3] == channels:
        return _resize(value[0], height, width)[None]
    return value


def _read_channels_first(value: np.ndarray, wanted: Shape) -> np.ndarray:
    return read_grid(value.transpose(0, 2, 3, 1) if value.ndim == 4 else value, wanted)


def _tokens(value: np.ndarray) -> np.ndarray:
    return value.reshape(1, -1, value.shape[-1])


def _tokens_after_class(value: np.ndarray) -> np.ndarray:
    return np.pad(_tokens(value), ((0, 0), (1, 0), (0, 0)))


OFFSETS = Layout(read_offsets)
AXIS = Layout(read_axis)
GRID = Layout(read_grid)
CHANNELS_FIRST = Layout(_read_channels_first, lambda value: value.transpose(0, 3, 1, 2))
TOKENS = Layout(read_grid, _tokens)
# Nothing reads the class token's position: it goes back as zeros.
TOKENS_AFTER_CLASS = Layout(read_grid, _tokens_after_class)


def offsets_index(shape: Shape) -> np.ndarray:
    """The index buffer beside a table of offsets of this shape."""
    side = _side(shape[0])
    return relative_position_index((side + 1) // 2) if side else np.zeros(0, np.int64)

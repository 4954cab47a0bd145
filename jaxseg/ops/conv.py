"""Convolution whose kernel learns in reasonable time on a CPU.

XLA:CPU takes the gradient of a kernel to be a convolution with a window as large as the image, and
has no good code for it: 2 to 3 times slower than the sum of matrix products that it is, and the
larger half of a ResNet's backward pass.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from jaxseg.ops.compiler import apart, platform
from jaxseg.typing import Array, Float

# Positions whose windows are laid out at a time, so that they stay in the cache.
POSITIONS = 2560


def conv(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "k k c d"],
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
) -> Float[Array, "b _h _w d"]:
    """Convolve, with `padding` rows and columns of zeros on every side.

    Differentiable any number of times, forward and backward.
    """
    by_hand = platform() == "cpu" and x.dtype == jnp.float32
    compute = _by_hand if by_hand else _plain
    return compute(x, kernel, stride, padding, dilation)


def _plain(x, kernel, stride: int, padding: int, dilation: int):
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(padding, padding)] * 2,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


_by_hand = jax.custom_jvp(_plain, nondiff_argnums=(2, 3, 4))


@partial(_by_hand.defjvp, symbolic_zeros=True)
def _jvp(stride, padding, dilation, primals, tangents):
    (x, kernel), (dx, dkernel) = primals, tangents
    y = _by_hand(x, kernel, stride, padding, dilation)
    parts = []
    if not isinstance(dx, SymbolicZero):
        parts.append(_by_hand(dx, kernel, stride, padding, dilation))
    if not isinstance(dkernel, SymbolicZero):
        parts.append(_as_products(x, dkernel, y.shape, stride, padding, dilation))
    return y, sum(parts) if parts else jnp.zeros_like(y)


def _as_products(x, kernel, shape, stride: int, padding: int, dilation: int):
    """The same convolution as products of windows and kernel: what counts is its transpose.

    JAX turns it into the gradient of the kernel, a product of (d, n) and (n, k·k·c): with neither
    factor to be transposed, as `apart` has done that.
    """
    b, h, w, d = shape
    size, channels = kernel.shape[0], kernel.shape[2]
    rows = max(1, min(h, POSITIONS // (b * w)))
    blocks = -(-h // rows)
    reach = dilation * (size - 1) + 1
    below = max(padding, (blocks * rows - 1) * stride + reach - padding - x.shape[1])
    x = jnp.pad(x, ((0, 0), (padding, below), (padding, padding), (0, 0)))
    columns = kernel.reshape(-1, d).T

    def windows(block):
        down, across = (rows - 1) * stride + 1, (w - 1) * stride + 1
        starts = range(0, reach, dilation)
        places = [(i, j) for i in starts for j in starts]
        parts = [block[:, i : i + down : stride, j : j + across : stride] for i, j in places]
        return jnp.stack(parts, 3).reshape(b * rows * w, size * size * channels)

    # Without this, JAX would keep the windows of all blocks for the backward pass.
    @partial(jax.checkpoint, prevent_cse=False)
    def step(_, i):
        height = (rows - 1) * stride + reach
        block = lax.dynamic_slice_in_dim(x, i * (rows * stride), height, 1)
        y = lax.dot_general(columns, apart(windows, block), (((1,), (1,)), ((), ())))
        return None, apart(jnp.transpose, y).reshape(b, rows, w, d)

    _, parts = lax.scan(step, None, jnp.arange(blocks))
    return jnp.moveaxis(parts, 0, 1).reshape(b, blocks * rows, w, d)[:, :h]

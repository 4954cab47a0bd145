"""The sum of rows as kernels for GPUs, by Pallas's Triton backend: to be asked for by name.

Pallas deprecates that backend from JAX 0.11 on, so nothing chooses it by itself. The gradient of
a table is summed by sorting, as in the `ordered` form: no atomics.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from jaxseg.kernels.ms_deform_attn import quads
from jaxseg.kernels.ms_deform_attn.quad import table_gradient_in_order
from jaxseg.kernels.ms_deform_attn.reference import Shapes
from jaxseg.typing import Array, Float

# Queries of a program.
BLOCK = 32
WARPS = 4


def pallas_gpu(
    value: Float[Array, "b n m d"],
    shapes: Shapes,
    locations: Float[Array, "b q m l p 2"],
    weights: Float[Array, "b q m l p"],
    *,
    interpret: bool = False,
) -> Float[Array, "b q m*d"]:
    """Arguments and result as in `ms_deform_attn`.

    Args:
      interpret: run the kernels as plain operations, on any platform (for tests).
    """
    d = value.shape[-1]
    # Triton's arrays have powers of two as sizes.
    padded_width = max(16, 1 << (d - 1).bit_length())
    padded = jnp.pad(value, ((0, 0), (0, 0), (0, 0), (0, padded_width - d)))
    bag = quads.with_gradients(partial(_mix, interpret), partial(_pull, interpret))
    mixed = quads.attend(bag, padded, shapes, locations, weights)
    mixed = mixed.reshape(*locations.shape[:3], padded_width)[..., :d]
    return mixed.reshape(*locations.shape[:2], -1)


def _mix(interpret, table, index, weights):
    g, _, c = table.shape
    q = index.shape[-1]
    index, weights = _whole_blocks(index), _whole_blocks(weights)
    shape = (g, index.shape[-1], c // 4)
    mixed = _run(_mix_kernel, interpret, "result", shape, index=index, table=table, weights=weights)
    return mixed[:, :q]


def _pull(interpret, table, index, weights, cotangent):
    of_table = table_gradient_in_order(table, index, weights, cotangent)
    q = index.shape[-1]
    index = _whole_blocks(index)
    cotangent = _whole_blocks(cotangent.swapaxes(1, 2)).swapaxes(1, 2)
    shape = (*weights.shape[:-1], index.shape[-1])
    of_weights = _run(
        _to_weights_kernel, interpret, "weights", shape, index=index, table=table, result=cotangent
    )
    return of_table, of_weights[..., :q]


def _whole_blocks(array: Array) -> Array:
    """Pad the queries, which come last."""
    missing = -array.shape[-1] % BLOCK
    return jnp.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, missing)])


def _run(kernel, interpret: bool, output: str, shape: tuple[int, ...], **inputs) -> Array:
    """Run a kernel for all tables and blocks of queries; it takes inputs, then the output."""
    specs = {
        "index": pl.BlockSpec((None, inputs["index"].shape[1], BLOCK), lambda g, q: (g, 0, q)),
        "table": pl.BlockSpec((None, *inputs["table"].shape[1:]), lambda g, q: (g, 0, 0)),
        "weights": pl.BlockSpec(
            (None, 4, inputs["index"].shape[1], BLOCK), lambda g, q: (g, 0, 0, q)
        ),
        "result": pl.BlockSpec(
            (None, BLOCK, inputs["table"].shape[2] // 4), lambda g, q: (g, q, 0)
        ),
    }
    return pl.pallas_call(
        kernel,
        grid=(shape[0], inputs["index"].shape[-1] // BLOCK),
        in_specs=[specs[name] for name in inputs],
        out_specs=specs[output],
        out_shape=jax.ShapeDtypeStruct(shape, jnp.float32),
        compiler_params=None if interpret else plgpu.CompilerParams(num_warps=WARPS),
        name=f"ms_deform_attn{kernel.__name__}",
        interpret=interpret,
    )(*inputs.values())


def _mix_kernel(index, table, weights, mixed):
    def add(k, total):
        for part in range(4):
            weight = weights[part, k]
            total += _read(table, index, k, part) * weight[:, None]
        return total

    zeros = jnp.zeros(mixed.shape, jnp.float32)
    mixed[...] = lax.fori_loop(0, index.shape[0], add, zeros)


def _to_weights_kernel(index, table, cotangent, of_weights):
    pulled = cotangent[...].astype(jnp.float32)

    def dot(k, _):
        for part in range(4):
            of_weights[part, k] = (_read(table, index, k, part) * pulled).sum(1)
        return 0

    lax.fori_loop(0, index.shape[0], dot, 0)


def _read(table, index, k, part: int) -> Array:
    """One part of the rows that sample k of each query reads, (q, d)."""
    d = table.shape[1] // 4
    rows = index[k]
    channels = part * d + lax.iota(jnp.int32, d)
    return plgpu.load(table.at[rows[:, None], channels[None]]).astype(jnp.float32)

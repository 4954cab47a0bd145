"""Compiled ahead of time for TPUs by their own compiler; nothing runs on one (`make aot`)."""

import importlib.util
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxseg.kernels.ms_deform_attn import ms_deform_attn

pytestmark = [
    pytest.mark.aot,
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None,
        reason="needs libtpu, the TPU's compiler: make aot",
    ),
]
# An image of 800 × 1333 pixels.
FOUR = ((100, 167), (50, 84), (25, 42), (13, 21))
FIVE = ((200, 334), *FOUR)
TOPOLOGIES = {
    "v4": ("v4:2x2x1", {"chip_config_name": "megacore"}),
    "v5e": ("v5e:2x4", {}),
    "v5p": ("v5p:2x2x1", {}),
    "v6e": ("v6e:2x2", {}),
    "tpu7x": ("tpu7x:2x2x1", {}),
}
LIMIT = 1.2e9


def mesh_of(chip, devices=1):
    # Several processes may load the compiler, and no metadata server is asked for a TPU.
    os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    from jax.experimental import topologies

    name, options = TOPOLOGIES[chip]
    found = topologies.get_topology_desc(name, "tpu", **options).devices[:devices]
    return Mesh(np.array(found).reshape(-1, 1), ("data", "fsdp"))


def compiled(mesh, shapes, queries, gradient=True, name=None, dtype=jnp.float32):
    """The operation, or it and its gradients, for an image a device; 8 heads of 32, 4 points."""
    b, tokens, levels = mesh.size, sum(h * w for h, w in shapes), len(shapes)
    sharding = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    sizes = ((b, tokens, 8, 32), (b, queries, 8, levels, 4, 2), (b, queries, 8, levels, 4))
    types = (dtype, jnp.float32, jnp.float32)
    arrays = [
        jax.ShapeDtypeStruct(size, of, sharding=sharding)
        for size, of in zip(sizes, types, strict=True)
    ]

    def attend(value, locations, weights):
        return ms_deform_attn(value, shapes, locations, weights, implementation=name)

    def with_gradients(*arrays):
        mixed, back = jax.vjp(attend, *arrays)
        return mixed, back(mixed)

    with jax.set_mesh(mesh):
        return jax.jit(with_gradients if gradient else attend).lower(*arrays).compile()


def kernels(program) -> set[str]:
    """The names of the operation's kernels in a compiled program."""
    names = ("mix", "to_weights", "to_table")
    return {name for name in names if f"ms_deform_attn_{name}_kernel" in program.as_text()}


@pytest.mark.parametrize("chip", TOPOLOGIES)
def test_kernels_compile_forward_and_backward(chip):
    forward = compiled(mesh_of(chip), FOUR, 900, gradient=False)
    assert kernels(forward) == {"mix"}
    backward = compiled(mesh_of(chip), FOUR, 900)
    assert kernels(backward) == {"mix", "to_weights", "to_table"}


def test_kernels_take_bfloat16_values():
    assert kernels(compiled(mesh_of("v5e"), FOUR, 300, dtype=jnp.bfloat16))


@pytest.mark.parametrize("name", ["pallas_tpu", "chunked"])
def test_an_encoder_layer_takes_little_memory(name):
    program = compiled(mesh_of("v5e"), FOUR, sum(h * w for h, w in FOUR), name=name)
    assert program.memory_analysis().temp_size_in_bytes < LIMIT


def test_five_scales_stay_in_the_vmem_of_a_v5p_and_leave_that_of_a_v4():
    assert kernels(compiled(mesh_of("v5p"), FIVE, 300))
    assert not kernels(compiled(mesh_of("v4"), FIVE, 300))


def test_eight_chips_each_sample_their_own_images():
    program = compiled(mesh_of("v5e", devices=8), FOUR, 300)
    assert kernels(program)
    assert not any(word in program.as_text() for word in ("all-gather", "all-reduce"))

"""Multi-scale deformable attention on 8 simulated devices and on one of them.

python -m tests.kernels.eight_devices
"""

from functools import partial

import jax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxseg.kernels.ms_deform_attn import partition
from tests.kernels.operation import assert_close, draw, form, value_and_gradients

SHAPES = ((5, 7), (2, 3))
# Sizes of data, fsdp and tensor; 4 images and 4 heads, then 2 and 3, which not all of them divide.
MESHES = ((2, 2, 2), (8, 1, 1), (1, 4, 2))
CASES = ((4, 4), (2, 3))
ARRAYS = P(("data", "fsdp"), None, "tensor")


def mesh_of(sizes):
    return jax.make_mesh(sizes, ("data", "fsdp", "tensor"), (AxisType.Auto,) * 3)


def split(name):
    """A form as `ms_deform_attn` runs it; kernels for other chips too."""
    return form(name) if not name.startswith("pallas") else partial(partition.on_mesh, form(name))


def same_on_every_mesh(name, images, heads, meshes):
    arrays = draw(images, SHAPES, 5, heads, 8, 2)
    wanted = value_and_gradients(form("reference"), SHAPES, *arrays)
    for sizes in meshes:
        with jax.set_mesh(mesh_of(sizes)):
            assert_close(value_and_gradients(split(name), SHAPES, *arrays), wanted)


def within_a_split_of_the_callers():
    arrays = draw(4, SHAPES, 5, 4, 8, 2)
    wanted = value_and_gradients(form("reference"), SHAPES, *arrays)
    attend = partial(value_and_gradients, form("blocked"), SHAPES)
    specs = (P("data"),) * 4
    with jax.set_mesh(mesh_of((2, 2, 2))):
        for axes in ({"data"}, {"data", "fsdp", "tensor"}):
            mapped = jax.shard_map(
                attend, in_specs=specs, out_specs=specs, axis_names=axes, check_vma=False
            )
            assert_close(jax.jit(mapped)(*arrays), wanted)


def without_communication():
    mesh = mesh_of((2, 2, 2))
    value, locations, weights, _ = draw(4, SHAPES, 5, 4, 8, 2)
    place = partial(jax.device_put, device=NamedSharding(mesh, ARRAYS))
    for name in ("blocked", "chunked"):
        with jax.set_mesh(mesh):

            def attend(value, locations, weights, name=name):
                return form(name)(value, SHAPES, locations, weights)

            arrays = [place(x) for x in (value, locations, weights)]
            text = jax.jit(attend).lower(*arrays).compile().as_text()
        assert not any(word in text for word in ("all-gather", "all-reduce", "all-to-all")), name


def main():
    assert len(jax.devices()) == 8
    for images, heads in CASES:
        same_on_every_mesh("blocked", images, heads, MESHES)
    for name in ("chunked", "ordered", "pallas_tpu"):
        same_on_every_mesh(name, 4, 4, MESHES[:1])
    within_a_split_of_the_callers()
    without_communication()
    print("ok: the same on every mesh")


if __name__ == "__main__":
    main()

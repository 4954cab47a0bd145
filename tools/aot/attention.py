"""Multi-scale deformable attention, compiled for a chip that need not be there.

Shared by `tpu.py` and `h100.py`, which print tables of what each form accesses and takes.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxseg.kernels.ms_deform_attn import ms_deform_attn

# One image of 800 × 1333 pixels, 8 heads of 32 channels, 4 points; the queries of an encoder, one
# for each token, and of a decoder.
FOUR = ((100, 167), (50, 84), (25, 42), (13, 21))
FIVE = ((200, 334), *FOUR)
DECODER_QUERIES = 900
HEADS, WIDTH, POINTS = 8, 32, 4


def tokens(shapes) -> int:
    return sum(h * w for h, w in shapes)


def compiled(device, name, shapes, queries, gradient):
    """A form, or the form and its gradients, compiled for one device."""
    mesh = Mesh(np.array([device]), ("data",))
    levels = len(shapes)
    sizes = (
        (1, tokens(shapes), HEADS, WIDTH),
        (1, queries, HEADS, levels, POINTS, 2),
        (1, queries, HEADS, levels, POINTS),
    )
    place = NamedSharding(mesh, PartitionSpec())
    arrays = [jax.ShapeDtypeStruct(size, jnp.float32, sharding=place) for size in sizes]

    def attend(value, locations, weights):
        return ms_deform_attn(value, shapes, locations, weights, implementation=name)

    def with_gradients(*arrays):
        mixed, back = jax.vjp(attend, *arrays)
        return mixed, back(mixed)

    with jax.set_mesh(mesh):
        return jax.jit(with_gradients if gradient else attend).lower(*arrays).compile()


def report(devices, forms, sizes) -> None:
    """Print a table in Markdown as it is made.

    Args:
      devices: of each chip, by the chip's name.
      forms, sizes: names of implementations, and pairs of shapes and queries.
    """
    print("| chip | form | levels | queries | pass | accessed | temporary | compiled in |")
    print("|---|---|---|---|---|---|---|---|")
    for shapes, queries in sizes:
        for chip, device in devices.items():
            for name in forms:
                for gradient in (False, True):
                    start = time.perf_counter()
                    cells = _cells(device, name, shapes, queries, gradient)
                    row = (chip, name, len(shapes), queries, "gradient" if gradient else "forward")
                    seconds = f"{time.perf_counter() - start:.0f} s"
                    print("|", " | ".join(map(str, (*row, *cells, seconds))), "|", flush=True)


def _cells(device, name, shapes, queries, gradient) -> tuple[str, str]:
    """Bytes accessed, where the compiler tells, and bytes of temporaries."""
    try:
        program = compiled(device, name, shapes, queries, gradient)
    except (ValueError, jax.errors.JaxRuntimeError) as error:
        return "", str(error).splitlines()[0][:60]
    accessed = (program.cost_analysis() or {}).get("bytes accessed")
    temporary = program.memory_analysis().temp_size_in_bytes
    # The compiler counts the body of a loop once.
    loops = " (loops counted once)" if accessed and " while(" in program.as_text() else ""
    return f"{accessed / 1e9:.2f} GB{loops}" if accessed else "", f"{temporary / 1e6:.0f} MB"

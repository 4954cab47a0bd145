"""Which form of the operation suits a platform and its memory, and what a form needs to run."""

from math import prod

from jaxseg.kernels.ms_deform_attn.reference import Shapes
from jaxseg.ops.compiler import is_exported, platform

# On a TPU, rows that plain XLA would gather into memory at once; beyond that, in chunks.
WHOLE_BYTES = 2**29


def choose(value, shapes: Shapes, locations) -> str:
    """The name of the form that `implementation=None` stands for, for one device's arrays."""
    match platform():
        case "cpu" | "onnx":
            return "blocked"
        case "gpu":
            return "ordered"
        case "tpu":
            return _on_tpu(value, shapes, locations)
    return "reference"


def _on_tpu(value, shapes, locations) -> str:
    # TPUs differ in VMEM, and an exported program is for all of them.
    if not is_exported():
        need, there = vmem(value, shapes, locations)
        if need <= there:
            return "pallas_tpu"
    b, q, m, l, p, _ = locations.shape
    gathered = prod((b, q, m, l, p, 4, value.shape[-1])) * 4
    return "quad" if gathered <= WHOLE_BYTES else "chunked"


def require(name: str, value, shapes: Shapes, locations) -> None:
    """Refuse a named form that cannot run here.

    Raises:
      ValueError: the platform is another, or its memory too small.
    """
    wanted = {"pallas_tpu": "tpu", "pallas_gpu": "gpu"}.get(name)
    if wanted and platform() != wanted:
        raise ValueError(
            f"implementation {name!r} needs a {wanted.upper()}, and this program is for a "
            f"{platform().upper()}: leave implementation at None, which chooses one that runs"
        )
    if name == "pallas_tpu":
        need, there = vmem(value, shapes, locations)
        if need > there:
            raise ValueError(
                f"implementation 'pallas_tpu' holds one head's maps {shapes} in VMEM: it needs "
                f"{need / 2**20:.0f} MiB, and this TPU has {there / 2**20:.0f}; use 'chunked' or "
                "None"
            )


def vmem(value, shapes, locations) -> tuple[int, int]:
    """Bytes of VMEM that the TPU's kernels need, and that the TPU has."""
    # Pallas takes a second to import, and moves from version to version.
    from jax.experimental.pallas import tpu as pltpu

    from jaxseg.kernels.ms_deform_attn.pallas_tpu import Sizes

    return Sizes.of(value, shapes, locations).vmem, pltpu.get_tpu_info().vmem_capacity_bytes

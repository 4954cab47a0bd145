"""What the TPU's compiler says of Segment Anything's image encoder, one image of 1024 × 1024.

make aot && JAX_PLATFORMS=cpu PYTHONPATH=tools/benchmark .venv/aot/bin/python tools/aot/sam.py

Needs no TPU. Prints the memory of the compiled program, its products' operations, the time that
these take on a v5e at its peak (197 TFLOP/s in bfloat16), the time that its HBM (819 GB/s) needs
for what the program moves (`hbm.py`), and the share of the products in both together, as if nothing
overlapped.
"""

import argparse
import os

import jax
import jax.numpy as jnp
import numpy as np
from arithmetic import operations
from hbm import moved
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tpu import TOPOLOGIES

from jaxseg.models import build
from jaxseg.params import abstract_params
from jaxseg.structures import Images

PEAK, MEMORY = 197e12, 819e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=("vit_b", "vit_l", "vit_h"), default="vit_h")
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    arguments = parser.parse_args()
    os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    from jax.experimental import topologies

    name, options = TOPOLOGIES["v5e"]
    device = topologies.get_topology_desc(name, "tpu", **options).devices[0]
    mesh = Mesh(np.array([device]), ("data",))
    place = NamedSharding(mesh, PartitionSpec())
    print(
        "| model | dtype | weights | temporary | operations | at the peak | moved | in | products |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for dtype in arguments.dtypes:
        model = build(f"sam.{arguments.size}", dtype=jnp.dtype(dtype), param_dtype=jnp.dtype(dtype))
        params = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
            abstract_params(model),
        )
        side = model.canvas_size
        images = Images(
            jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32, sharding=place),
            jax.ShapeDtypeStruct((1, side, side), jnp.bool_, sharding=place),
        )
        with jax.set_mesh(mesh):
            traced = jax.jit(
                lambda p, x, m=model: m.apply({"params": p}, x, method="encode")
            ).trace(params, images)
            program = traced.lower().compile()
        memory, work = program.memory_analysis(), operations(traced.jaxpr.jaxpr)
        accessed = moved(program.as_text(), trips=model.prompt_encoder.grid)
        compute, traffic = work / PEAK, accessed / MEMORY
        cells = (
            f"sam.{arguments.size}",
            dtype,
            f"{memory.argument_size_in_bytes / 2**30:.2f} GiB",
            f"{memory.temp_size_in_bytes / 2**20:.0f} MiB",
            f"{work / 1e12:.2f} T",
            f"{1e3 * compute:.1f} ms",
            f"{accessed / 1e9:.1f} GB",
            f"{1e3 * traffic:.1f} ms",
            f"{100 * compute / (compute + traffic):.0f} %",
        )
        print("|", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()

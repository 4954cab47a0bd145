"""One process of two that evaluate the rectangles; prints what it found as JSON.

Run as `python -m tests.eval.runner_worker PORT PROCESS WAY`, WAY "mesh" or "alone".
"""

import json
import sys

import jax
import jax.numpy as jnp

from jaxseg.eval.build import make_evaluator
from jaxseg.parallel.mesh import MeshShape
from jaxseg.parallel.shard import place
from tests.eval.toy import IMAGE, ColourFinder, Rectangles


def main(port: str, process: str, way: str) -> None:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 1)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", 2, int(process))
    params, mesh = {"gain": jnp.float32(1.0)}, None
    if way == "mesh":
        mesh = MeshShape().build()
        everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        params = jax.tree.map(lambda x: place(x, everywhere), params)
    evaluator = make_evaluator(
        ColourFinder(), Rectangles(), image=IMAGE, batch_size=2, mesh=mesh, progress=False
    )
    evaluation = evaluator.evaluate(params)
    answer = {
        "images": evaluation.images,
        "records": evaluation.records,
        "AP": evaluation.table.stats["AP"],
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""One process of two that evaluate in several ways; prints what it found as JSON.

Run as `python -m tests.eval.runner_worker PORT PROCESS STRIPES`, STRIPES a panoptic JSON file.
"""

import json
import sys

import jax
import jax.numpy as jnp

from jaxseg.data import open_dataset
from jaxseg.eval.build import make_evaluator
from jaxseg.eval.gather import local_rows
from jaxseg.parallel.mesh import MeshShape
from jaxseg.parallel.shard import place
from tests import stripe_finder
from tests.eval import toy


def main(port: str, process: str, stripes: str) -> None:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 1)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", 2, int(process))
    boxes = toy.ColourFinder(), toy.Rectangles(), toy.IMAGE
    masks = stripe_finder.StripeFinder(), open_dataset(f"panoptic:{stripes}"), stripe_finder.IMAGE
    mesh, tensor = MeshShape().build(), MeshShape(data=1, tensor=2).build()
    answers = {
        "mesh": evaluated(*boxes, mesh),
        "alone": evaluated(*boxes, None),
        "masks": evaluated(*masks, mesh),
        "tensor": evaluated(*masks, tensor),
    }
    print(json.dumps(answers))


def evaluated(model, dataset, image, mesh) -> dict:
    params = {"gain": jnp.float32(1.0)}
    if mesh is not None:
        everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        params = jax.tree.map(lambda x: place(x, everywhere), params)
    evaluator = make_evaluator(model, dataset, image=image, batch_size=2, mesh=mesh, progress=False)
    evaluation = evaluator.evaluate(params)
    answer = evaluator.detect(params, next(iter(evaluator.batches())))
    own = local_rows(answer)
    return {
        "images": evaluation.images,
        "records": evaluation.records,
        "AP": evaluation.table.stats["AP"],
        "PQ": None if evaluation.panoptic is None else evaluation.panoptic.stats["PQ"],
        "rows": len(own.mask),
        "real": int(own.count),
        "reported": [n for n in own.index[own.mask].tolist() if evaluator.share(n)],
    }


if __name__ == "__main__":
    main(*sys.argv[1:])

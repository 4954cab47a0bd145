"""Evaluation on 8 simulated devices and on one of them; prints whether the records are the same.

python -m tests.eval.eight_devices
"""

import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp

from jaxseg.data import open_dataset
from jaxseg.eval.build import make_evaluator
from jaxseg.parallel.mesh import MeshShape
from tests import stripe_finder
from tests.data.panoptic_files import stripes
from tests.eval import toy

PARAMS = {"gain": jnp.float32(1.0)}
SHAPES = (MeshShape(), MeshShape(data=2, fsdp=4), MeshShape(data=2, fsdp=2, tensor=2))


def evaluator(model, dataset, image, batch_size, mesh=None):
    return make_evaluator(
        model, dataset, image=image, batch_size=batch_size, mesh=mesh, progress=False
    )


def main():
    assert len(jax.devices()) == 8
    boxes = toy.ColourFinder(), toy.Rectangles(), toy.IMAGE
    expected = evaluator(*boxes, 3).evaluate(PARAMS).records
    for shape in SHAPES:
        found = evaluator(*boxes, 16, shape.build()).evaluate(PARAMS)
        assert found.records == expected, shape
    with tempfile.TemporaryDirectory() as folder:
        dataset = open_dataset(f"panoptic:{stripes(Path(folder))}")
        judge = evaluator(
            stripe_finder.StripeFinder(), dataset, stripe_finder.IMAGE, 8, SHAPES[2].build()
        )
        assert judge.evaluate(PARAMS).panoptic.stats["PQ"] == 1
        answer = judge.detect(PARAMS, next(iter(judge.batches())))
    (shard,) = {s.data.shape[0] for s in answer.masks.logits.addressable_shards}
    assert shard == 2, "masks of 8 images stay on the 4 devices that computed them"
    print("ok: the same records")


if __name__ == "__main__":
    main()

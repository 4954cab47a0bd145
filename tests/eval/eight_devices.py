"""Evaluation on 8 simulated devices and on one of them; prints whether the records are the same.

python -m tests.eval.eight_devices
"""

import jax
import jax.numpy as jnp

from jaxseg.eval.build import make_evaluator
from jaxseg.parallel.mesh import MeshShape
from tests.eval.toy import IMAGE, ColourFinder, Rectangles

PARAMS = {"gain": jnp.float32(1.0)}


def records(batch_size, mesh=None):
    evaluator = make_evaluator(
        ColourFinder(), Rectangles(), image=IMAGE, batch_size=batch_size, mesh=mesh, progress=False
    )
    return evaluator.evaluate(PARAMS).records


def main():
    assert len(jax.devices()) == 8
    expected = records(batch_size=3)
    for shape in (MeshShape(), MeshShape(data=2, fsdp=4), MeshShape(data=2, fsdp=2, tensor=2)):
        assert records(batch_size=16, mesh=shape.build()) == expected, shape
    print("ok: the same records")


if __name__ == "__main__":
    main()

"""What must not depend on the mesh, on 8 simulated devices; prints "ok" for each promise kept.

python -m tests.parallel.eight_devices FOLDER
"""

import sys

import jax
import numpy as np

from jaxseg.parallel.mesh import MeshShape
from jaxseg.parallel.rules import DETR
from jaxseg.parallel.shard import batch_sharding, global_batch
from jaxseg.train.checkpoint import Checkpoints
from jaxseg.train.compiled import CompiledStep
from jaxseg.train.optim import Optimizer
from jaxseg.train.state import abstract_state, create_state
from tests.models.small_grounding import CRITERION, small
from tests.train.small import Parts, draw_batch, draw_told_batch, small_detr

MESHES = {1: MeshShape(), 4: MeshShape(data=2, fsdp=2), 8: MeshShape(data=2, fsdp=2, tensor=2)}


def detr():
    """A small DETR with dropout."""
    return Parts(small_detr(dropout=0.1), optimizer=Optimizer(clip_norm=None), ema=0.9)


def grounding_dino():
    """A small Grounding DINO, which is told what to find."""
    return Parts(small(), optimizer=Optimizer(clip_norm=None), criterion=CRITERION)


class Runner:
    """A small run on a mesh of the first `count` devices."""

    def __init__(self, count, parts=detr, draw=draw_batch):
        self.parts, self.draw = parts(), draw
        self.mesh = MESHES[count].build(jax.devices()[:count])
        self.arguments = (self.parts.init_params, self.parts.make_state, DETR, self.mesh)

    def step(self, state, step=0):
        compiled = CompiledStep(self.parts.step, state, self.mesh, lambda text: None)
        batch = global_batch(self.draw(0, step), self.mesh)
        compiled.compile(state, batch)
        return compiled(state, batch)


# Sums in another order, in float32: measured are 2e-6 of the largest entry.
ROUNDING = 1e-5


def host(tree):
    return jax.tree.map(np.asarray, tree)


def assert_close(one, other, tolerance):
    """Leaves agree to a fraction of their largest entry.

    Some are sums that cancel, as of the biases of keys: they are rounded as what was summed.
    """
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(one))

    def check(path, a, b):
        limit = tolerance * max(np.abs(a).max(), 1e-3 * max(1, largest))
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(b, a, rtol=0, atol=limit, err_msg=name)

    jax.tree_util.tree_map_with_path(check, one, other)


def compare_steps(single, eight):
    one, report_one = single.step(create_state(*single.arguments))
    state = create_state(*eight.arguments)
    many, report_many = eight.step(state)
    assert_close(host(report_one.metrics), host(report_many.metrics), ROUNDING)
    # Adam's first moment after one step is a tenth of the gradient.
    assert_close(host(one.opt_state.mu), host(many.opt_state.mu), ROUNDING)
    return many


def main(folder):
    single, eight = Runner(1), Runner(8)
    state = compare_steps(single, eight)
    print("ok: loss and gradients")

    kernel = state.params["encoder"]["layer_0"]["linear1"]["kernel"]
    moment = state.opt_state.mu["encoder/layer_0/linear1/kernel"]
    shapes = {x.addressable_shards[0].data.shape for x in (kernel, moment)}
    assert shapes == {(8, 16)}, shapes  # (16, 32) over fsdp 2 × tensor 2
    assert batch_sharding(eight.mesh).shard_shape((8, 3)) == (2, 3)
    print("ok: parameters and moments are split")

    checkpoints = Checkpoints(folder)
    checkpoints.save(1, state)
    saved = host(state)
    for count in (1, 4):
        runner = Runner(count)
        restored = checkpoints.restore(abstract_state(*runner.arguments))
        jax.tree.map(np.testing.assert_array_equal, host(restored), saved)
        following, report = runner.step(restored, 1)
        figures = host((report.metrics, following.opt_state.mu))
        first = figures if count == 1 else first
        assert_close(first, figures, ROUNDING)
    checkpoints.close()
    print("ok: saved on 8, resumed on 1 and 4")

    compare_steps(*(Runner(count, grounding_dino, draw_told_batch) for count in (1, 8)))
    print("ok: loss and gradients of what is told")


if __name__ == "__main__":
    main(sys.argv[1])

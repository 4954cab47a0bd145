"""A small run in a process of its own, which tests may kill.

python -m tests.train.worker WORKDIR [--kill SIGNAL AT_STEP DELAY] ...
"""

import argparse
import os
import signal
import threading
from pathlib import Path

import jax
import numpy as np

from jaxseg.parallel.mesh import MeshShape, loader_shard
from jaxseg.parallel.rules import P
from jaxseg.params import flatten
from jaxseg.train.checkpoint import Checkpoints
from jaxseg.train.loop import Plan, Trainer
from jaxseg.train.metrics import MetricsLog
from jaxseg.train.state import abstract_state, create_state
from tests.train.small import Batches, Parts

SHARDING = (("/kernel$", P("fsdp", "tensor")),)


class Deadly(Batches):
    """Sends this process a signal some seconds after a step's batch was drawn."""

    def __init__(self, number, at, delay, **options):
        super().__init__(**options)
        self.number, self.at, self.delay = number, at, delay

    def iterate(self, start_step, num_steps=None):
        for step, batch in enumerate(super().iterate(start_step, num_steps), start_step):
            if step == self.at:
                arguments = (os.getpid(), self.number)
                threading.Timer(self.delay, os.kill, arguments).start()
            yield batch


def train(workdir, loader, steps=24, mesh_shape=None, evaluate=None):
    """Run or resume; returns the outcome."""
    parts = Parts(ema=0.9, num_steps=steps)
    mesh = (mesh_shape or MeshShape()).build()
    arguments = (parts.init_params, parts.make_state, SHARDING, mesh)
    checkpoints = Checkpoints(Path(workdir) / "checkpoints")
    state = checkpoints.restore(abstract_state(*arguments)) or create_state(*arguments)
    main = jax.process_index() == 0
    metrics = MetricsLog(workdir, int(state.step), enabled=main)
    trainer = Trainer(
        parts.step,
        Plan(steps, loader.rows, evaluate_every=8, checkpoint_every=4),
        mesh,
        checkpoints,
        metrics,
        trainable=parts.trainable,
        image_ids=range(10**6),
        learning_rate=lambda step: 1e-3,
        evaluate=evaluate,
    )
    try:
        return trainer.run(state, loader)
    finally:
        metrics.close()
        checkpoints.close()


def on_host(x):
    """A global array that may be spread over processes."""
    if x.is_fully_addressable:
        return np.asarray(x)
    return jax.experimental.multihost_utils.process_allgather(x, tiled=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--kill", nargs=3, metavar=("SIGNAL", "STEP", "DELAY"))
    parser.add_argument("--process", nargs=2, type=int, metavar=("ID", "PORT"))
    args = parser.parse_args()
    if args.process:
        index, port = args.process
        jax.distributed.initialize(f"localhost:{port}", 2, index)
    shape = MeshShape(data=-1, fsdp=2 if jax.device_count() > 1 else 1)
    part, parts = loader_shard(shape.build())
    loader = Batches(part=part, parts=parts)
    if args.kill:
        name, step, delay = args.kill
        loader = Deadly(signal.Signals[name], int(step), float(delay), part=part, parts=parts)
    outcome = train(args.workdir, loader, mesh_shape=shape)
    print("interrupted:", outcome.interrupted, "at", int(outcome.state.step))
    tree = {"params": outcome.state.params, "ema": outcome.state.ema}
    arrays = {name: on_host(x) for name, x in flatten(tree).items()}
    if jax.process_index() == 0:
        np.savez(args.workdir / "final.npz", **arrays)


if __name__ == "__main__":
    main()

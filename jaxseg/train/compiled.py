"""A step and its compilations, of which there are as many as canvases."""

import time
from collections.abc import Callable

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxseg.structures import Batch
from jaxseg.train.state import TrainState
from jaxseg.train.step import Report, Step


class CompiledStep:
    """A step compiled once for each shape of batch, and never silently again.

    Args:
      state: whose layout the results keep.
      say: is told of each compilation.
    """

    def __init__(self, step: Step, state: TrainState, mesh: Mesh, say: Callable[[str], None]):
        replicated = NamedSharding(mesh, PartitionSpec())
        layout = jax.tree.map(lambda x: x.sharding, state)
        self._jitted = jax.jit(step, donate_argnums=0, out_shardings=(layout, replicated))
        self._mesh, self._say, self._programs = mesh, say, {}

    def compile(self, state: TrainState, batch: Batch) -> None:
        """Compile for a batch's shapes (global arrays or `jax.ShapeDtypeStruct`s)."""
        b, h, w, _ = batch.images.pixels.shape
        self._say(f"compiling the step for {b} images on canvases of {h} × {w}")
        started = time.monotonic()
        # Kernels and matching find the mesh in the ambient context.
        with jax.set_mesh(self._mesh):
            self._programs[_shapes(batch)] = self._jitted.lower(state, batch).compile()
        self._say(f"compiled in {time.monotonic() - started:.0f} s")

    def has(self, batch: Batch) -> bool:
        """Whether this batch's shapes were compiled."""
        return _shapes(batch) in self._programs

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Report]:
        return self._programs[_shapes(batch)](state, batch)


def _shapes(batch: Batch) -> tuple:
    return tuple((x.shape, str(x.dtype)) for x in jax.tree.leaves(batch))

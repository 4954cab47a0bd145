"""Everything that a step changes, and so everything that a checkpoint holds."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from jaxseg.parallel.rules import Table
from jaxseg.parallel.shard import born_sharded, param_shardings, tree_shardings
from jaxseg.params import flatten, unflatten
from jaxseg.train.adamw import Update
from jaxseg.train.optim import Ema
from jaxseg.typing import Array, Int, PyTree


@flax.struct.dataclass
class TrainState:
    """The state after `step` steps; the data's position is the step too.

    Attributes:
      step: how many steps have been taken.
      params: all parameters of the model, nested.
      opt_state: of the trainable parameters, keyed by their flat paths.
      ema: average of the trainable parameters by flat path, or None.
      seed: what every random number of the run is drawn from, with the step.
    """

    step: Int[Array, ""]
    params: dict[str, Any]
    opt_state: PyTree
    ema: dict[str, Any] | None
    seed: Int[Array, ""]

    def averaged(self) -> dict[str, Any]:
        """The parameters to evaluate and to export: averaged ones where an average is kept."""
        if self.ema is None:
            return self.params
        return unflatten(flatten(self.params) | self.ema)


def select(params: dict[str, Any], paths: tuple[str, ...]) -> dict[str, Any]:
    """The named parameters, as a flat dict."""
    flat = flatten(params)
    return {path: flat[path] for path in paths}


def initial_state(
    params: dict[str, Any],
    optimizer: Update,
    trainable: tuple[str, ...],
    ema: Ema,
    seed: int,
) -> TrainState:
    """The state before the first step."""
    chosen = select(params, trainable)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(chosen),
        # Copies, because a donated buffer may stand in one place only.
        ema=None if ema.decay is None else jax.tree.map(jnp.copy, chosen),
        seed=jnp.asarray(seed, jnp.uint32),
    )


def state_shardings(table: Table[PartitionSpec], state: TrainState, mesh: Mesh) -> PyTree:
    """The sharding of every leaf of a state (arrays or their shapes) by the parameters' rules."""
    return tree_shardings(state, param_shardings(table, state.params, mesh), mesh)


def create_state(
    init_params: Callable[[], dict[str, Any]],
    make_state: Callable[[dict[str, Any]], TrainState],
    table: Table[PartitionSpec],
    mesh: Mesh,
    load: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> TrainState:
    """A state that is sharded from the beginning.

    Args:
      init_params: draws the parameters (traced).
      make_state: from parameters to a state (traced).
      load: replaces some or all of the drawn parameters (on the host) with arrays that keep
        their shardings.
    """

    def shardings(tree):
        return tree_shardings(tree, param_shardings(table, tree, mesh), mesh)

    params = born_sharded(init_params, shardings)
    if load is not None:
        params = load(params)
    return born_sharded(make_state, lambda state: state_shardings(table, state, mesh), params)


def abstract_state(
    init_params: Callable[[], dict[str, Any]],
    make_state: Callable[[dict[str, Any]], TrainState],
    table: Table[PartitionSpec],
    mesh: Mesh,
) -> TrainState:
    """The shapes and shardings of a state, to restore a checkpoint into, on whatever mesh."""
    shapes = jax.eval_shape(lambda: make_state(init_params()))
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        shapes,
        state_shardings(table, shapes, mesh),
    )

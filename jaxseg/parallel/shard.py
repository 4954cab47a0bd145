"""Arrays on a mesh: parameters that are born sharded, and batches joined from all processes."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxseg.errors import UserError
from jaxseg.parallel.mesh import BATCH_AXES, batch_shards
from jaxseg.parallel.rules import Table, fit, lookup
from jaxseg.params import flatten
from jaxseg.typing import PyTree


def param_shardings(
    table: Table[PartitionSpec], params: Mapping[str, Any], mesh: Mesh
) -> dict[str, NamedSharding]:
    """The sharding of each parameter by its flat path; paths without a rule are replicated.

    Args:
      params: nested arrays or `jax.ShapeDtypeStruct`s.
    """
    flat = flatten(params)
    specs = lookup(table, flat, default=PartitionSpec(), what="sharding")
    return {path: NamedSharding(mesh, fit(specs[path], flat[path].shape, mesh)) for path in flat}


def tree_shardings(tree: PyTree, params: Mapping[str, NamedSharding], mesh: Mesh) -> PyTree:
    """Shardings of any tree that holds copies of parameters, such as a whole training state.

    A leaf whose path ends in a parameter's path (a moment of the optimizer, an average) is laid
    out like that parameter; every other leaf is replicated.
    """
    replicated = NamedSharding(mesh, PartitionSpec())

    def one(key_path, leaf):
        words = jax.tree_util.keystr(key_path, simple=True, separator="/").split("/")
        for start in range(len(words)):
            sharding = params.get("/".join(words[start:]))
            if sharding is not None and leaf.ndim >= len(sharding.spec):
                return sharding
        return replicated

    return jax.tree_util.tree_map_with_path(one, tree)


def born_sharded(init: Callable[..., PyTree], shardings: Callable[[PyTree], PyTree], *args):
    """Call `init(*args)` so that each device only ever holds its own part of the result.

    Args:
      shardings: from the result's shapes (`jax.eval_shape`) to the tree of its shardings.
    """
    out_shardings = shardings(jax.eval_shape(init, *args))
    return jax.jit(init, out_shardings=out_shardings)(*args)


def place(array, sharding: NamedSharding) -> jax.Array:
    """A host array, the same on every process, as a global one."""
    array = np.asarray(array)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch over data × fsdp; tensor-parallel devices see the same rows."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def global_batch(batch: PyTree, mesh: Mesh) -> PyTree:
    """Join the rows that each process loaded into one global batch."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def check_batch_size(
    batch_size: int, mesh: Mesh, micro_batches: int = 1, name: str = "batch_size"
) -> None:
    """Every device must get as many rows as any other, in every micro-batch.

    Args:
      name: of the setting, for the error.

    Raises:
      UserError: it does not divide.
    """
    parts = batch_shards(mesh) * micro_batches
    if batch_size >= 1 and batch_size % parts == 0:
        return
    sizes = " × ".join(f"{axis}={mesh.shape[axis]}" for axis in BATCH_AXES)
    accumulated = f" and {micro_batches} accumulated micro-batches" if micro_batches > 1 else ""
    below, above = batch_size // parts * parts, rounded_up(max(batch_size, 1), parts)
    allowed = f"{below} or {above}" if below > 0 else str(above)
    others = ["mesh.data", "mesh.fsdp", *(["accumulate"] if micro_batches > 1 else [])]
    raise UserError(
        f"a batch of {batch_size} does not divide over the mesh: {sizes} devices{accumulated} "
        f"need a multiple of {parts}. Set {name} to {allowed}, or change "
        f"{', '.join(others[:-1])} or {others[-1]}"
    )


def rounded_up(batch_size: int, parts: int) -> int:
    """The least multiple of `parts` that is not below `batch_size`."""
    return -(-batch_size // parts) * parts

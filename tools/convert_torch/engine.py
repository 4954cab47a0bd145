"""The way from an official state dict to a parameter tree, and back without loss.

A `Table` says how modules are renamed; how a tensor is laid out follows from the leaf that
the model has there (`kernel` is transposed, `scale`, `embedding` and `bias` are not) unless the
table has a layout for it. Both ways are strict: all that is missing, unexpected or misshapen is one
sorted report.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxseg.errors import UserError
from jaxseg.params import abstract_params, flatten, unflatten
from jaxseg_convert_torch.problems import ConversionError, Problems
from jaxseg_convert_torch.table import Table
from jaxseg_convert_torch.unpack import unpack

__all__ = ["ConversionError", "Converted", "convert", "revert"]


class Converted(NamedTuple):
    """Nested parameters (numpy), and what the way back needs beside them (JSON-able).

    `dropped` are the keys that the table leaves out on purpose, `resized` those of tensors (of
    position embeddings) that the model has in another size.
    """

    params: dict
    origin: dict[str, Any]
    dropped: list[str]
    resized: list[str]


def convert(
    table: Table,
    state: Mapping[str, np.ndarray],
    target: nn.Module | Mapping,
    *,
    prefix: str = "",
    part: str = "",
) -> Converted:
    """Convert an official state dict to the parameters that `target` has.

    Args:
      target: the module, or the (nested) shapes of its parameters.
      prefix: where in the target the table's model lies: a torchvision ResNet goes into a
        detector's "backbone". The result is that subtree.
      part: convert only what lies under this path of the table's model; again a subtree.

    Raises:
      ConversionError: the report of all that is missing, unexpected or misshapen.
    """
    shapes = target_shapes(target, prefix)
    problems = Problems()
    plain, origin = unpack(table, state, problems)
    under = f"{part}/" if part else ""
    flat, resized = {}, []
    for key, value in plain.items():
        found = table.paths(key)
        if not found:
            problems.add("unexpected", key)
            continue
        inside = not under or f"{found[0]}/".startswith(under)
        if inside and _place(table, flat, shapes, key, value, found, problems):
            resized.append(key)
    wanted = {path: shape for path, shape in shapes.items() if path.startswith(under)}
    if shared := _fill(table, flat, wanted, problems):
        origin["shared"] = shared
    problems.check(f"a state dict of the form {table.title}")
    tree = unflatten(flat)
    for name in part.split("/") if part else ():
        tree = tree[name]
    dropped = sorted(key for key in state if table.dropped(table.spell(key)))
    return Converted(tree, origin, dropped, resized)


def target_shapes(target: nn.Module | Mapping, prefix: str = "") -> dict:
    """Flat path -> shape and dtype of what lies under `prefix` of a module or a tree."""
    tree = abstract_params(target) if isinstance(target, nn.Module) else target
    for name in prefix.strip("/").split("/") if prefix else ():
        if name not in tree:
            raise UserError(f"the model has no {prefix!r}; at that place it has {sorted(tree)}")
        tree = tree[name]
    return flatten(tree)


def _place(table, flat, shapes, key, official, found, problems) -> bool:
    """Lay a tensor out where it belongs; returns whether it had to be resized."""
    path = next((path for path in found if path in shapes), None)
    if path is None or path in flat:
        problems.add("unexpected", key, path or "the model has no such parameter")
        return False
    wanted, layout = shapes[path], table.layout(path)
    shape = tuple(wanted.shape)
    value = layout.read(official, shape) if layout else to_ours(path, official)
    if value.shape != shape:
        why = f"{value.shape} came, {path} is {shape} (in this package's layout)"
        problems.add("misshapen", key, why)
    elif not jnp.issubdtype(value.dtype, jnp.floating):
        problems.add("misshapen", key, f"{value.dtype} came, {path} is {wanted.dtype}")
    flat[path] = value.astype(wanted.dtype)
    return bool(layout and value.shape == shape and layout.write(value).shape != official.shape)


def _fill(table, flat, wanted, problems) -> dict[str, str]:
    """Find what the form leaves out; anything else that is not there is missing.

    Returns the keys that another key's tensor stands for, and those others.
    """
    shared = {}
    for path, leaf in wanted.items():
        if path in flat:
            continue
        key = table.key(path)
        source = table.shared_with(key)
        found = next((p for p in table.paths(source) if p in flat), None) if source else None
        if found is not None:
            flat[path], shared[key] = flat[found], source
        elif (default := table.default(path)) is not None:
            flat[path] = np.full(leaf.shape, default, leaf.dtype)
        else:
            problems.add("missing", _fused_key(table, key) or path, f"for {path}" if key else "")
    return shared


def to_ours(path: str, value: np.ndarray) -> np.ndarray:
    """OIHW to HWIO, (out, in) to (in, out); all but kernels as they are."""
    if not path.endswith("/kernel"):
        return value
    return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T


def to_official(path: str, value: np.ndarray) -> np.ndarray:
    """The inverse of `to_ours`."""
    if not path.endswith("/kernel"):
        return value
    return value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T


def _fused_key(table, key):
    for fusion in table.fusions:
        if key is not None and (holes := fusion.part.read(key)) is not None:
            return fusion.fused.write(holes)
    return key


def revert(
    table: Table,
    params: Mapping,
    origin: Mapping | None = None,
    *,
    prefix: str = "",
) -> dict[str, np.ndarray]:
    """The official state dict of parameters (nested arrays); the inverse of `convert`.

    Args:
      origin: what `convert` noted; without it tensors keep the dtype they have here, all
        aliases are written and no counters.
      prefix: where in `params` the table's model lies.

    Raises:
      ConversionError: a parameter that the official model has no name for.
    """
    problems = Problems()
    plain = {}
    for path, value in target_shapes(params, prefix).items():
        value, key = np.asarray(value), table.key(path)
        if key is not None:
            layout = table.layout(path)
            plain[key] = layout.write(value) if layout else to_official(path, value)
        elif (default := table.default(path)) is None:
            problems.add("unexpected", path, "the official model has no such parameter")
        elif not np.all(value == default):
            problems.add("unexpected", path, f"in the official model it is always {default:g}")
    state = _fuse(table, plain, problems)
    problems.check(f"parameters to the form {table.title}")
    origin = {"aliases": table.repeats(state)} if origin is None else origin
    absent = origin.get("absent", ())
    for key, value in list(state.items()):
        buffers = table.buffers_of(key, value.shape)
        state |= {name: buffer for name, buffer in buffers.items() if name not in absent}
    return _restore(state, origin)


def _fuse(table, plain, problems) -> dict:
    state: dict[str, np.ndarray] = {}
    for key in plain:
        fused = _fused_key(table, key)
        if fused == key:
            state[key] = plain[key]
        elif fused not in state:
            fusion, holes = next(
                (f, holes) for f in table.fusions if (holes := f.fused.read(fused)) is not None
            )
            parts = fusion.part_keys(holes)
            if absent := [part for part in parts if part not in plain]:
                problems.add("missing", fused, f"its part {absent[0]}")
            else:
                state[fused] = np.concatenate([plain[part] for part in parts])
    return state


def _restore(state, origin) -> dict:
    for key, source in origin.get("shared", {}).items():
        if np.array_equal(state[key], state[source]):  # training may have parted them
            del state[key]
    if "dtype" in origin:
        dtypes = origin.get("dtypes", {})
        for key, value in state.items():
            if jnp.issubdtype(value.dtype, jnp.floating):  # buffers keep their own
                state[key] = value.astype(jnp.dtype(dtypes.get(key, origin["dtype"])))
    for alias, original in origin.get("aliases", {}).items():
        state[alias] = state[original]
    for key, counter in origin.get("integers", {}).items():
        state[key] = np.asarray(counter["value"], counter["dtype"])
    keys = origin.get("keys", {})
    return {keys.get(key, key): np.asarray(value, order="C") for key, value in state.items()}

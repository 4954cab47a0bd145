"""The first half of the way in: official keys as the table spells them, each tensor once."""

from collections import Counter
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from jaxseg_convert_torch.problems import Problems
from jaxseg_convert_torch.table import Table


def unpack(table: Table, state: Mapping, problems: Problems) -> tuple[dict, dict]:
    """Spell, drop, check aliases and split fused tensors; note what the way back needs."""
    plain, dtypes, integers, aliases = {}, {}, {}, {}
    spelled, keys = _spell(table, state, problems)
    for key, value in spelled.items():
        if table.dropped(key):
            if jnp.issubdtype(value.dtype, jnp.integer):
                integers[key] = {"dtype": value.dtype.name, "value": value.tolist()}
            continue
        if table.buffer_source(key) is not None:
            continue
        dtypes[key] = value.dtype.name
        original = table.alias_of(key)
        if original is not None and original != key:
            aliases[key] = original
            if original not in spelled:
                problems.add("missing", original, f"which {key} repeats")
            elif not np.array_equal(spelled[original], value):
                problems.add("unexpected", key, f"it should repeat {original} and differs")
        elif table.is_part(key):
            problems.add("unexpected", key)
        else:
            plain.update(_split(table, key, value, problems))
    absent = _check_buffers(table, spelled, problems)
    noted = {"integers": integers, "aliases": aliases, "absent": absent, "keys": keys}
    return plain, _origin(table, dtypes, noted)


def _check_buffers(table, state, problems) -> list[str]:
    """Compare buffers with what they follow from; returns those that are not there."""
    built = {}
    for key, value in state.items():
        built |= table.buffers_of(key, np.shape(value))
    for key, value in state.items():
        if (found := table.buffer_source(key)) is None:
            continue
        if found[1] not in state:
            problems.add("missing", found[1], f"which {key} follows from")
        elif not np.array_equal(built[key], value):
            problems.add("unexpected", key, f"it differs from what follows from {found[1]}")
    return [key for key in built if key not in state]


def _spell(table, state, problems) -> tuple[dict, dict]:
    """Tensors by the table's spelling of their keys, and the keys that had another one."""
    spelled, keys = {}, {}
    for key, value in state.items():
        name = table.spell(key)
        if name in spelled:
            problems.add("unexpected", key, f"it spells {keys.get(name, name)} another way")
            continue
        spelled[name] = np.asarray(value)
        if name != key:
            keys[name] = key
    for name in list(spelled) if table.lone_aliases else ():
        original = table.alias_of(name)
        if original not in (None, name) and original not in spelled:
            spelled[original] = spelled.pop(name)
            keys[original] = keys.pop(name, name)
    return spelled, keys


def _origin(table, dtypes, noted) -> dict:
    common = Counter(dtypes.values()).most_common(1)
    dtype = common[0][0] if common else "float32"
    others = {key: name for key, name in dtypes.items() if name != dtype}
    noted = {"dtypes": others} | noted
    return {"table": table.name, "dtype": dtype} | {k: v for k, v in noted.items() if v}


def _split(table, key, value, problems) -> dict:
    for fusion in table.fusions:
        if (holes := fusion.fused.read(key)) is not None:
            if value.ndim == 0 or value.shape[0] % len(fusion.parts):
                why = f"{value.shape} came, its first axis must divide by {len(fusion.parts)}"
                problems.add("misshapen", key, why)
                return {}
            pieces = np.split(value, len(fusion.parts))
            return dict(zip(fusion.part_keys(holes), pieces, strict=True))
    return {key: value}

"""PyTorch checkpoints to parameters and back: an engine, and a short table for each model.

params = load_state_dict("detr", read_state_dict("detr-r50.pth"), model)
official = to_state_dict("detr", params)
"""

import re
from collections.abc import Iterable, Mapping

import numpy as np
from flax import linen as nn

from jaxseg.errors import UserError
from jaxseg_convert_torch import (
    bert_tables,
    clip_tables,
    dab_tables,
    deformable_tables,
    detr_tables,
    dino_tables,
    grounding_dino_tables,
    huggingface_tables,
    resnet_tables,
    sam_tables,
    swin_tables,
    vit_tables,
)
from jaxseg_convert_torch.engine import ConversionError, Converted, convert, revert
from jaxseg_convert_torch.files import read_state_dict, write_state_dict
from jaxseg_convert_torch.pth import read_pth
from jaxseg_convert_torch.table import Table

__all__ = [
    "TABLES",
    "ConversionError",
    "Converted",
    "convert",
    "detect_table",
    "load_state_dict",
    "read_pth",
    "read_state_dict",
    "revert",
    "to_state_dict",
    "write_state_dict",
]

TABLES: dict[str, Table] = {
    table.name: table
    for tables in (
        resnet_tables,
        swin_tables,
        vit_tables,
        detr_tables,
        deformable_tables,
        dino_tables,
        dab_tables,
        sam_tables,
        bert_tables,
        grounding_dino_tables,
        huggingface_tables,
        clip_tables,
    )
    for table in tables.TABLES
}

# Keys that only other models' checkpoints have, unless the second pattern is found too.
STRANGERS = {
    r"ca_qpos_proj|sa_qcontent_proj": ("Conditional DETR", r"refpoint_embed"),
}


def load_state_dict(
    table: str, state: Mapping[str, np.ndarray], target: nn.Module | Mapping, **where: str
) -> dict:
    """Nested parameters of `target` from a state dict of the form `TABLES[table]`.

    Args:
      where: `prefix` and `part` of `engine.convert`.

    Raises:
      ConversionError: the report of all that is missing, unexpected or misshapen.
    """
    return convert(_table(table), state, target, **where).params


def to_state_dict(
    table: str, params: Mapping, origin: Mapping | None = None, *, prefix: str = ""
) -> dict[str, np.ndarray]:
    """The state dict of the form `TABLES[table]` that parameters (or gradients) have."""
    return revert(_table(table), params, origin, prefix=prefix)


def detect_table(keys: Iterable[str]) -> str:
    """The name of the table that knows all of a checkpoint's keys, or else the most of them.

    Raises:
      UserError: the keys are another model's.
    """
    keys = list(keys)
    for pattern, (model, unless) in STRANGERS.items():
        if any(re.search(unless, key) for key in keys):
            continue
        if found := next((key for key in keys if re.search(pattern, key)), None):
            raise UserError(
                f"this is a checkpoint of {model} (it has {found}), which cannot be loaded as "
                f"one of {', '.join(sorted(TABLES))}"
            )
    known = {name: sum(map(table.covers, keys)) for name, table in TABLES.items()}
    best = max(known, key=known.__getitem__)
    if known[best] == 0:
        shown = ", ".join(sorted(keys)[:3])
        raise UserError(
            f"no conversion table knows these weights (keys such as {shown}); "
            f"there are tables for {', '.join(table.title for table in TABLES.values())}"
        )
    return best


def _table(name: str) -> Table:
    if name not in TABLES:
        raise UserError(f"no conversion table {name!r}; there are {', '.join(sorted(TABLES))}")
    return TABLES[name]

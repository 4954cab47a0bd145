"""Backbones alone: from files of their own, or out of a whole detector's."""

import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxseg.errors import UserError
from jaxseg_convert_torch import TABLES, convert, detect_table, swin_tables, vit_tables
from jaxseg_convert_torch.files import read_checkpoint

logger = logging.getLogger(__name__)

SWIN = {table.name for table in swin_tables.TABLES}
VIT = {table.name for table in vit_tables.TABLES}
GROUNDING = ("grounding_dino", "grounding_dino.huggingface")
BACKBONES = {"resnet"} | SWIN | VIT
# How detectors with a transformer for a backbone call it: ViTDet's is the net of a pyramid.
PREFIX = re.compile(r"(backbone\.(?:0\.)?)(?:net\.)?patch_embed\.proj\.weight")


def load_backbone_file(
    path: Path, shapes: Mapping[str, Any], say: Callable[[str], None] = logger.warning
) -> dict:
    """Nested backbone parameters from a backbone's file or folder, or a detector's official file.

    Tables of positions that were made for other windows or images are resized. What only
    detectors have and a classifier's file cannot hold starts as it would without a file: norms
    on outputs, relative positions, a pyramid, and the last stage of a dilated Swin.

    Args:
      shapes: nested shapes of the backbone's parameters.
      say: is told what was resized.

    Raises:
      UserError: a file of anything else, or the report of all that does not fit.
    """
    state = _take_out(read_checkpoint(path).tensors)
    table = detect_table(state)
    _check_family(table, path, shapes)
    if table not in BACKBONES:
        return convert(TABLES[table], state, {"backbone": shapes}, part="backbone").params
    part = ""
    if table in SWIN:
        state, shapes = swin_tables.without_last_stage(state, shapes)
    elif table in VIT and "net" in shapes and table != vit_tables.WHOLE:
        part, shapes = "net", shapes["net"]
    converted = convert(TABLES[table], state, shapes)
    if converted.resized:
        some = f"{len(converted.resized)} tensors, such as {converted.resized[0]}"
        say(f"{path}: positions resized to the model's size: {some}")
    return {part: converted.params} if part else converted.params


def load_text_file(path: Path, shapes: Mapping[str, Any]) -> dict:
    """Nested parameters of a BERT from its own file or folder, or a Grounding DINO's.

    Args:
      shapes: nested shapes of the BERT's parameters.

    Raises:
      UserError: a file of anything else, or the report of all that does not fit.
    """
    state = read_checkpoint(path).tensors
    table = detect_table(state)
    if "pooler" not in shapes:
        state = {key: x for key, x in state.items() if "pooler.dense." not in key}
    if table == "bert":
        return convert(TABLES[table], state, shapes).params
    if table in GROUNDING:
        return convert(TABLES[table], state, {"bert": shapes}, part="bert").params
    raise UserError(
        f"{path} holds weights of the form {TABLES[table].title}; the text encoder is a BERT"
    )


def _take_out(state: dict[str, Any]) -> dict[str, Any]:
    """A transformer's tensors without the detector around it."""
    found = next((match for key in state if (match := PREFIX.fullmatch(key))), None)
    if found is None:
        return state
    prefix = found[1]
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def _check_family(table: str, path: Path, shapes: Mapping[str, Any]) -> None:
    """One sentence instead of a report of every tensor."""
    inside = shapes.get("net", shapes)
    ours = "Swin" if "patch_norm" in inside else "ViT" if "patch_embed" in inside else "ResNet"
    theirs = "Swin" if table in SWIN else "ViT" if table in VIT else "ResNet"
    if table in BACKBONES and ours != theirs:
        raise UserError(
            f"{path} holds weights of the form {TABLES[table].title}, and the model's backbone is "
            f"a {ours}: give the file of a {ours}"
        )

"""Files of official weights: `.pth` and `.bin`, safetensors in one piece or in shards."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from jaxseg.errors import UserError
from jaxseg.native import save_tensors
from jaxseg.program import install_line
from jaxseg_convert_torch.pth import read_pth

# Under which key a training script keeps the model; the first one present is taken.
MODEL_KEYS = ("model", "state_dict", "model_state_dict")
HUGGINGFACE_FILES = ("model.safetensors", "pytorch_model.bin")
# What DataParallel, Lightning and torch.compile put before every key of the model.
WRAPPERS = ("module.", "model.", "_orig_mod.")


class StateDict(NamedTuple):
    """Tensors by official key, and the training script's arguments where the file has them."""

    tensors: dict[str, np.ndarray]
    args: dict[str, Any]


def read_state_dict(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint file, of whatever format, by their official keys.

    Raises:
      UserError: no checkpoint, a damaged one, or one that holds code.
    """
    return read_checkpoint(path).tensors


def read_checkpoint(path: str | os.PathLike) -> StateDict:
    """As `read_state_dict`, with the training arguments that a `.pth` may hold beside them."""
    path = Path(path)
    if path.is_dir():
        return StateDict(_read_folder(path), {})
    if path.suffix == ".safetensors":
        return StateDict(read_safetensors(path), {})
    content = read_pth(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not a dictionary of tensors")
    args = content.get("args")
    found = next((content[key] for key in MODEL_KEYS if isinstance(content.get(key), dict)), None)
    tensors = {k: v for k, v in (found or content).items() if isinstance(v, np.ndarray)}
    if not tensors:
        keys = ", ".join(map(str, list(content)[:8]))
        raise UserError(f"{path} holds no tensors at its top or under {MODEL_KEYS}; it has {keys}")
    return StateDict(_unwrap(tensors), args if isinstance(args, dict) else {})


def _unwrap(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Take wrappers' prefixes off; a criterion may lie beside the wrapped model."""
    inside = [key for key in tensors if not key.startswith("criterion.")]
    for prefix in WRAPPERS:
        if inside and all(key.startswith(prefix) for key in inside):
            return _unwrap({key.removeprefix(prefix): value for key, value in tensors.items()})
    return tensors


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """All tensors of one file.

    Raises:
      UserError: the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot read {path}, or it is damaged: {error}") from error


def _read_folder(folder: Path) -> dict[str, np.ndarray]:
    for name in HUGGINGFACE_FILES:
        index = folder / f"{name}.index.json"
        if (folder / name).exists():
            return read_state_dict(folder / name)
        if index.exists():
            return _read_shards(index)
    raise UserError(f"{folder} has no weights; looked for {', '.join(HUGGINGFACE_FILES)}")


def _read_shards(index: Path) -> dict[str, np.ndarray]:
    try:
        names = set(json.loads(index.read_text())["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{index} is no index of shards, or it is damaged: {error!r}") from error
    if strange := [name for name in names if Path(str(name)).name != name]:
        raise UserError(f"{index} names a file outside its folder: {strange[0]}")
    return {k: v for n in sorted(names) for k, v in read_state_dict(index.parent / n).items()}


def write_state_dict(state: Mapping[str, np.ndarray], path: str | os.PathLike) -> None:
    """Write official weights as `.safetensors`, or as `.pth` in the form {"model": ...}.

    The file appears whole or not at all.

    Raises:
      UserError: another suffix, `.pth` without torch, or a place that cannot be written to.
    """
    path = Path(path)
    if path.suffix not in (".safetensors", ".pth"):
        raise UserError(f"weights are written as .safetensors or .pth; got {path.name!r}")
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    try:
        if path.suffix == ".pth":
            _save_pth(state, partial)
        else:
            save_tensors(dict(state), partial, "pt")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _save_pth(state, path) -> None:
    try:
        import torch
    except ImportError:
        raise UserError(
            f"writing .pth needs torch: {install_line('convert')}, or write .safetensors"
        ) from None
    tensors = {key: _to_torch(torch, value) for key, value in state.items()}
    torch.save({"model": tensors}, path)


def _to_torch(torch, value):
    if value.dtype.name != "bfloat16":
        return torch.from_numpy(value.copy())
    return torch.from_numpy(value.view(np.uint16).copy()).view(torch.bfloat16)

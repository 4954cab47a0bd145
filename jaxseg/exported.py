"""Run what `jaxseg export` wrote, without the code of any model.

    sam = load("exported/sam-b")
    embedding = sam["encode"](pixels=canvases, sizes=sizes)["embedding"]
    answer = sam["decode"](embedding=embedding, points=points, labels=labels)

Beside `jaxseg.errors` this needs jax, flatbuffers, numpy and safetensors alone.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export
from safetensors import SafetensorError
from safetensors.numpy import load_file

from jaxseg.errors import UserError

INFO, FORMAT, VERSION = "export.json", "jaxseg-export", 1


@dataclass(frozen=True)
class Argument:
    """An input or output of a function.

    Attributes:
      name: by which it is given.
      shape: numbers, and letters for what may be any number from 1 on.
      dtype: its numpy name.
      kind: of prompts that may be left out together; None must be given.
      about: what it is.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: str
    kind: str | None = None
    about: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({', '.join(map(str, self.shape))}) {self.dtype}"


class Function:
    """An exported function: arrays by name in, arrays by name out.

    Attributes:
      inputs, outputs: what it takes and gives, for each of its variants, which differ in shapes.
    """

    def __init__(self, name: str, content: Mapping[str, Any], folder: Path):
        """Read a function's programs and weights from a folder."""
        self.name = name
        variants = content["variants"]
        self.inputs = [_arguments(variant["inputs"]) for variant in variants]
        self.outputs = [_arguments(variant["outputs"]) for variant in variants]
        self._programs = [_read_program(folder / variant["program"]) for variant in variants]
        self._params = jax.device_put(_read_weights(folder / content["weights"], content["sha256"]))

    def __call__(self, **given) -> dict[str, jax.Array]:
        """Compute.

        Kinds of prompts that are left out are in no set of prompts, and a mask of what is real
        (`points_mask`) that is left out says that all of its kind is.

        Raises:
          UserError: arrays whose names, shapes or dtypes are not those of `inputs`.
        """
        given = {name: x if hasattr(x, "shape") else np.asarray(x) for name, x in given.items()}
        problems = []
        for arguments, program in zip(self.inputs, self._programs, strict=True):
            try:
                return program(self._params, _complete(self.name, arguments, given))
            except UserError as error:
                problems.append(str(error))
        raise UserError("\n".join(dict.fromkeys(problems)))


@dataclass(frozen=True)
class Exported:
    """A model as its exported functions.

    Attributes:
      info: of `export.json`: the model's name, how its images are prepared, names of its classes.
      functions: by name.
    """

    info: dict[str, Any]
    functions: dict[str, Function]

    def __getitem__(self, name: str) -> Function:
        if name not in self.functions:
            there = ", ".join(self.functions)
            raise UserError(f"no function {name!r} was exported; there are {there}")
        return self.functions[name]


def load(folder: str | os.PathLike) -> Exported:
    """Read a folder that `jaxseg export` wrote.

    Raises:
      UserError: it is no such folder, holds ONNX's form, is for other platforms, was written by a
        later jaxseg, or a file of it is damaged.
    """
    folder = Path(folder)
    info = read_info(folder)
    if info["form"] != "stablehlo":
        raise UserError(
            f"{folder} holds {info['form']}, which this cannot run: use onnxruntime, or export "
            "with --to stablehlo"
        )
    names = {"gpu": ("cuda", "rocm")}.get(jax.default_backend(), (jax.default_backend(),))
    if not set(names) & set(info["platforms"]):
        raise UserError(
            f"{folder} was exported for {', '.join(info['platforms'])}, and this process computes "
            f"on {names[0]}: export with --platforms {names[0]}"
        )
    functions = {name: Function(name, x, folder) for name, x in info["functions"].items()}
    return Exported(info, functions)


def read_info(folder: Path) -> dict[str, Any]:
    """A checked `export.json`.

    Raises:
      UserError: it is missing, another file's, or of a later format.
    """
    path = folder / INFO
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{folder} was not written by jaxseg export ({path}: {reason})") from error
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(info, dict) or info.get("format") != FORMAT:
        raise UserError(f"{path} does not describe an exported model")
    if info.get("version") != VERSION:
        raise UserError(
            f"{folder} has format {info.get('version')}, this jaxseg reads {VERSION}: use the "
            "jaxseg that wrote it, or export again"
        )
    if missing := [name for name in ("form", "functions") if name not in info]:
        raise UserError(f"{path} lacks {missing[0]!r}: export again")
    return info


def _arguments(described: list[dict[str, Any]]) -> list[Argument]:
    return [Argument(**one | {"shape": tuple(one["shape"])}) for one in described]


def _read_program(path: Path):
    try:
        return jax.jit(export.deserialize(bytearray(path.read_bytes())).call)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # flatbuffers raises whatever its bytes lead to
        raise UserError(f"{path} is damaged, or of another JAX ({error}); export again") from error


def _read_weights(path: Path, digest: str) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found == digest:
            return load_file(path)
        why = f"its SHA-256 is {found}, not {digest}"
    except (OSError, SafetensorError) as error:
        why = str(error)
    raise UserError(f"cannot read {path}, or it is damaged ({why}); export again")


def _complete(function: str, arguments: list[Argument], given: dict) -> dict:
    """All inputs: what is given, checked, and what stands for the kinds that are not.

    Raises:
      UserError: a name, shape or dtype that does not fit.
    """
    by_name = {argument.name: argument for argument in arguments}
    signature = f"{function} takes {', '.join(map(str, arguments))}"
    if unknown := [name for name in given if name not in by_name]:
        raise UserError(f"{function} has no input {unknown[0]!r}: {signature}")
    kinds = {by_name[name].kind for name in given}
    for argument in arguments:
        absent = argument.name not in given
        may = argument.name.endswith("_mask") or argument.kind not in kinds
        if absent and not (argument.kind and may):
            raise UserError(f"{function} needs {argument.name}: {signature}")
    letters: dict[str, int] = {}
    for name, array in given.items():
        _match(function, by_name[name], array, letters)
    return {
        argument.name: given[argument.name].astype(argument.dtype)
        if argument.name in given
        else np.full(
            [letters.get(n, 1) if isinstance(n, str) else n for n in argument.shape],
            argument.kind in kinds,
            argument.dtype,
        )
        for argument in arguments
    }


def _match(function: str, argument: Argument, array, letters: dict[str, int]) -> None:
    """Learn what the letters stand for, and raise `UserError` where they cannot."""
    wanted, came = argument.shape, tuple(array.shape)
    fits = len(wanted) == len(came) and all(
        letters.setdefault(n, size) == size if isinstance(n, str) else n == size
        for n, size in zip(wanted, came, strict=True)
    )
    if not fits or 0 in came:
        known = ", ".join(f"{letter} = {size}" for letter, size in letters.items())
        raise UserError(
            f"{function} takes {argument}; got {came}"
            + (f" where {known}" if known else "")
            + (": no side may be 0" if 0 in came else "")
        )
    if not np.can_cast(array.dtype, argument.dtype, "same_kind"):
        raise UserError(f"{function} takes {argument}; got {array.dtype}")

"""The folder of an exported model: its programs, their weights, and `export.json`."""

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import jax

from jaxseg import __version__, native
from jaxseg.errors import UserError
from jaxseg.export.onnx import SUFFIX as ONNX
from jaxseg.export.onnx import fixed, write_onnx
from jaxseg.export.programs import Program, programs_of
from jaxseg.export.stablehlo import SUFFIX as STABLEHLO
from jaxseg.export.stablehlo import write_stablehlo
from jaxseg.exported import FORMAT, INFO, VERSION, read_info
from jaxseg.models.sam import Sam
from jaxseg.native import Kind
from jaxseg.predict.preprocess import Size
from jaxseg.pretrained import Pretrained

Form = Literal["stablehlo", "onnx"]
PLATFORMS = ("cpu", "cuda", "tpu")
WEIGHTS = ".safetensors"


def _is_export(folder: Path) -> bool:
    """Whether a folder holds an export, and nothing beside it."""
    try:
        info = read_info(folder)
    except UserError:
        return False
    files = {INFO}
    for function in info["functions"].values():
        programs = {variant["program"] for variant in function["variants"]}
        files |= programs | {f"{name}.data" for name in programs} | {function.get("weights")}
    return {entry.name for entry in folder.iterdir()} <= files


EXPORT = Kind("exported models", lambda name: True, _is_export)


def write_export(
    pretrained: Pretrained,
    folder: str | os.PathLike,
    *,
    form: Form = "stablehlo",
    platforms: Sequence[str] = PLATFORMS,
    batch_size: int = 1,
    canvases: Sequence[Size] | None = None,
    points: int = 8,
    precision: str = "highest",
    say=lambda line: None,
) -> None:
    """Write a model's programs to a folder, whole or not at all.

    Args:
      form: "stablehlo", which `jaxseg.exported.load` runs, or "onnx".
      platforms: that StableHLO is for: "cpu", "cuda", "rocm", "tpu".
      batch_size, canvases: of a detector; canvases (h, w) are those that it predicts with, if None.
      points: of a set of prompts, in ONNX's form; fewer are filled up.
      precision: of matrix products (`jax.default_matmul_precision`).
      say: is told what was written.

    Raises:
      UserError: a setting that cannot be, a folder that holds anything else, or a model that the
        form cannot hold exactly.
    """
    if points < 1:
        raise UserError(f"points must be 1 or more; got {points}")
    programs = programs_of(pretrained, batch_size, canvases)
    if form == "onnx":
        programs = [fixed(program, points) for program in programs]

    def write(partial: Path) -> None:
        for program in programs:
            if form == "onnx":
                difference = write_onnx(program, partial, precision=precision)
                say(f"wrote    {program.name}{ONNX} (ONNX Runtime differs by {difference:.0e})")
            else:
                write_stablehlo(program, partial, platforms=platforms, precision=precision)
                say(f"wrote    {program.name}{STABLEHLO}")
        functions = _functions(programs, form)
        if form == "stablehlo":
            for name, content in functions.items():
                params = next(one.params for one in programs if one.function == name)
                content["weights"] = name + WEIGHTS
                content["sha256"] = native.write_weights(partial / content["weights"], params)
        info = _describe(pretrained, form) | {"functions": functions}
        if form == "stablehlo":
            info["platforms"] = list(platforms)
        native.write_json(partial / INFO, info)

    native.write_folder(folder, write, kind=EXPORT)


def _functions(programs: Sequence[Program], form: Form) -> dict[str, dict[str, Any]]:
    functions: dict[str, dict[str, Any]] = {}
    suffix = ONNX if form == "onnx" else STABLEHLO
    for program in programs:
        variant = {
            "program": program.name + suffix,
            "inputs": [asdict(one) for one in program.inputs],
            "outputs": [asdict(one) for one in program.outputs],
        }
        functions.setdefault(program.function, {"variants": []})["variants"].append(variant)
    return functions


def _describe(pretrained: Pretrained, form: Form) -> dict[str, Any]:
    model, classes = pretrained.model, pretrained.classes
    image = asdict(pretrained.image)
    if isinstance(model, Sam):
        image |= {"short_side": None, "long_side": model.canvas_size}
    return {
        "format": FORMAT,
        "version": VERSION,
        "form": form,
        "jaxseg": __version__,
        "jax": jax.__version__,
        "model": pretrained.name,
        "kwargs": native.encode_kwargs(pretrained.kwargs),
        "image": image,
        "classes": classes and classes.to_json(),
    }

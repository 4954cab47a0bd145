"""Programs as StableHLO, which every JAX from this one on can run on any of its platforms."""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from jax import export

from jaxseg.export.programs import Program, abstract
from jaxseg.exported import Argument
from jaxseg.ops.compiler import targeting

SUFFIX = ".stablehlo"


def write_stablehlo(
    program: Program, folder: Path, *, platforms: Sequence[str], precision: str
) -> None:
    """Write a program for some platforms; its weights are an argument of it."""
    with targeting(tuple(platforms)), jax.default_matmul_precision(precision):
        traced = export.export(jax.jit(program.compute), platforms=platforms)
        exported = traced(abstract(program.params), specs(program.inputs))
    (folder / (program.name + SUFFIX)).write_bytes(exported.serialize())


def specs(arguments: Sequence[Argument]) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes by name, their letters as JAX's symbolic dimensions of one scope."""
    letters = sorted({n for one in arguments for n in one.shape if isinstance(n, str)})
    symbols = dict(zip(letters, export.symbolic_shape(",".join(letters)), strict=True))
    return {
        one.name: jax.ShapeDtypeStruct([symbols.get(n, n) for n in one.shape], np.dtype(one.dtype))
        for one in arguments
    }

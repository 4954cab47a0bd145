"""Programs as ONNX, by jax2onnx, and whether ONNX Runtime computes the same with them."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from jaxseg.errors import UserError
from jaxseg.export.programs import Program
from jaxseg.export.stablehlo import specs
from jaxseg.ops.compiler import targeting

SUFFIX = ".onnx"
# Relative to an output's largest value; float32 sums in another order stay far below.
TOLERANCE = 1e-4


def fixed(program: Program, points: int) -> Program:
    """With a number of points for each set of prompts: jax2onnx mistakes one unknown number for
    another where both meet in a product's shape, and images of a decoder are one at a time."""
    letters = {"n": points} | ({"b": 1} if program.function == "decode" else {})

    def settle(arguments):
        return tuple(replace(x, shape=tuple(letters.get(n, n) for n in x.shape)) for x in arguments)

    return replace(program, inputs=settle(program.inputs), outputs=settle(program.outputs))


def write_onnx(program: Program, folder: Path, *, precision: str) -> float:
    """Write a program with its weights in it, and compare it with its origin.

    Returns:
      The largest difference of an output, relative to its largest value.

    Raises:
      UserError: jax2onnx is not installed, cannot convert the model, or the outputs differ.
    """
    path = folder / (program.name + SUFFIX)
    try:
        with _quiet():
            _convert(program, path, precision)
    except ImportError as error:
        raise UserError(
            f"ONNX needs jax2onnx ({error}): pip install 'jaxseg[onnx]' in an environment without "
            "the extra train, whose orbax-checkpoint is later than jax2onnx allows"
        ) from error
    except Exception as error:  # whatever the converter meets
        raise UserError(
            f"jax2onnx cannot convert {program.name}: {type(error).__name__}: {error}"
        ) from error
    return max(_difference(program, path, precision, size) for size in (1, 2))


def _convert(program: Program, path: Path, precision: str) -> None:
    from jax2onnx import to_onnx

    names = [one.name for one in program.inputs]
    params = {key: jax.numpy.asarray(x) for key, x in program.params.items()}

    def compute(*arrays):
        outputs = program.compute(params, dict(zip(names, arrays, strict=True)))
        return tuple(outputs[one.name] for one in program.outputs)

    inputs = list(specs(program.inputs).values())
    with targeting(("onnx",)), jax.default_matmul_precision(precision):
        if not any(isinstance(n, str) for one in program.inputs for n in one.shape):
            # It knows more of JAX's primitives than of the forms that numpy's functions take.
            closed = jax.make_jaxpr(compute)(*inputs)

            def compute(*arrays):
                return tuple(jax.core.eval_jaxpr(closed.jaxpr, closed.consts, *arrays))

        to_onnx(
            compute,
            inputs,
            input_names=names,
            output_names=[one.name for one in program.outputs],
            return_mode="file",
            output_path=str(path),
        )
    for beside in path.parent.glob(f"{path.name}.*"):
        beside.chmod(path.stat().st_mode)  # made for its owner alone


def _difference(program: Program, path: Path, precision: str, size: int) -> float:
    """Largest of all outputs for `size` images, sets of prompts and so on."""
    import onnxruntime

    example = program.example(seed=size, size=size)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # not of constants that nothing reads
    try:
        session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
        got = session.run([one.name for one in program.outputs], example)
    except Exception as error:
        raise UserError(
            f"ONNX Runtime cannot run what jax2onnx made of {program.name}: {error}"
        ) from error
    with jax.default_matmul_precision(precision):
        want = jax.device_get(jax.jit(program.compute)(program.params, example))
    worst = 0.0
    for output, mine in zip(program.outputs, got, strict=True):
        theirs = np.asarray(want[output.name], np.float64)
        difference = float(np.abs(mine - theirs).max() / max(np.abs(theirs).max(), 1e-6))
        if not difference <= TOLERANCE:
            raise UserError(
                f"ONNX Runtime computes {output.name} of {program.name} otherwise: it differs by "
                f"{difference:.1e} of its largest value, where {TOLERANCE:.0e} is allowed"
            )
        worst = max(worst, difference)
    return worst


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the converter's remarks on its own doings."""
    logger = logging.getLogger("onnx_ir")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)

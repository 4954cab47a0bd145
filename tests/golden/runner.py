"""Load a case, run what its kind builds, judge every output by the case's own rules."""

import traceback
import zlib

import jax
import numpy as np

from tests.golden import (
    backbone,
    clip,
    criterion,
    dab_detr,
    deformable_detr,
    detr,
    dino,
    grounding_dino,
    panoptic,
    sam,
    sam_utils,
    text,
)
from tests.goldens import compare, regen

# kind -> function(case, inputs) -> {run or None: {whole tensor's name: array}}
ROOMS = (
    *(backbone, clip, criterion, dab_detr, deformable_detr, detr, dino),
    *(grounding_dino, panoptic, sam, sam_utils, text),
)
KINDS = {kind: run for room in ROOMS for kind, run in room.KINDS.items()}


def judge(path) -> dict[str, dict]:
    """Reports of every output of the case in a folder, by output name.

    What could not be computed is a failed output that says why; an unknown kind fails all.
    """
    case = regen.load_case(path)
    try:
        computed, why = run(case), "not compared: the runner does not name this tensor"
    except Exception:
        computed, why = {}, "not compared: " + traceback.format_exc(limit=-3)
    return {
        name: _judge_output(case, name, output, computed, why)
        for name, output in case.spec["outputs"].items()
    }


def run(case) -> dict:
    """Compute a case's whole tensors: {run or None: {name: array}}."""
    kind = case.spec["kind"]
    if kind not in KINDS:
        raise ValueError(f"no golden kind {kind!r}; there are {', '.join(sorted(KINDS))}")
    with jax.default_matmul_precision("highest"):
        return KINDS[kind](case, draw_inputs(case))


def draw_inputs(case) -> dict:
    """Every input by name, checked against the case's checksums."""
    inputs = {name: _draw(case, spec) for name, spec in case.spec["inputs"].items()}
    for name, checksum in case.spec.get("inputs_crc32", {}).items():
        ours = zlib.crc32(np.ascontiguousarray(inputs[name]).tobytes())
        if ours != checksum:
            raise ValueError(f"input {name}: drawn with CRC-32 {ours}, the case says {checksum}")
    return inputs


def _draw(case, spec):
    if "in" in spec:
        return case.tensors[spec["in"]]
    if "value" in spec:
        return spec["value"]
    image = regen.image(spec["image"], spec["shape"], spec.get("seed", 0))
    return image if spec["dtype"] == "float32" else np.round(255 * image).astype(np.uint8)


def _judge_output(case, name, output, computed, why) -> dict:
    runs = [run for run in case.spec.get("runs", {}) if name.startswith(f"{run}/")]
    run_name = output.get("run", max(runs, key=len, default=None))
    tensors = computed.get(run_name, {})
    if output["from"] not in tensors:
        tolerance = {k: output[k] for k in ("atol", "rtol", "max_mismatch", "gap") if k in output}
        failed = {"max_abs": None, "max_rel": None, "noise_rel": output.get("noise_rel")}
        return failed | {"tolerance": tolerance, "ok": False, "why": why}
    return compare.compare(case, name, tensors[output["from"]])

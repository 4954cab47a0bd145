"""Where a compiled program spends its time on a CPU: convolutions, matrix products, the rest."""

import collections
import glob
import gzip
import json
import re
import tempfile
from collections.abc import Callable

import jax

KINDS = {"convolution": "convolutions", "dot": "matrix products"}
# Loops and calls hold other instructions, which are counted themselves.
HOLDERS = ("while", "call", "conditional")


def shares(program: jax.stages.Compiled, run: Callable[[], object]) -> dict[str, float]:
    """The share of each kind of work in the time of all instructions; forward and backward apart.

    Instructions that run side by side each count in full, so these are shares of work rather than
    of the clock.

    Args:
      program: what `run` executes.
      run: one execution, which is recorded.
    """
    kinds = _kinds(program.as_text())
    spent = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            run()
        for path in glob.glob(f"{folder}/**/*.trace.json.gz", recursive=True):
            with gzip.open(path) as file:
                for event in json.load(file)["traceEvents"]:
                    if event.get("ph") == "X" and event["name"] in kinds:
                        spent[kinds[event["name"]]] += event["dur"]
    total = sum(spent.values())
    return {kind: time / total for kind, time in spent.most_common()}


def _kinds(text: str) -> dict[str, str]:
    """The kind of work of every instruction of a program's text."""
    bodies: dict[str, str] = {}
    instructions: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if opened := re.match(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            name = opened[1]
        bodies[name] = bodies.get(name, "") + line + "\n"
        if instruction := re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = ", line):
            instructions[instruction[1]] = line
    return {
        name: _kind(line, bodies)
        for name, line in instructions.items()
        if not name.startswith(HOLDERS)
    }


def _kind(line: str, bodies: dict[str, str]) -> str:
    called = re.search(r"calls=%?([\w.\-]+)", line)
    text = line + (bodies.get(called[1], "") if called else "")
    work = re.search(r" (convolution|dot)\(", text)
    origins = re.findall(r'op_name="([^"]*)"', text)
    # Gradients with respect to kernels come out of the compiler without an origin.
    backward = any("transpose(" in origin for origin in origins) or (work and not origins)
    return f"{KINDS[work[1]] if work else 'rest'}, {'backward' if backward else 'forward'}"

"""`jaxseg eval WEIGHTS list:FILE`: every data set of a list, and a run that may be interrupted."""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from jaxseg.data import open_dataset
from jaxseg.errors import UserError
from jaxseg.eval.gather import gather_bytes
from jaxseg.eval.listed import Listed, judge_list, read_list, render, summary
from jaxseg.eval.prepare import Prepared
from jaxseg.eval.runner import Evaluation
from jaxseg.eval.told import check_judged, is_referring
from jaxseg.predict.result import write_json

SETTINGS = ("weights", "model", "revision", "vocab", "canvas", "names_at_once", "limit", "boxes")


def open_list(path: str) -> list[Listed]:
    """The data sets that a file lists; each has been opened once.

    Raises:
      UserError: no such list, or a data set of it cannot be judged by its classes.
    """
    sets = read_list(path)
    for one in sets:
        dataset = open_dataset(one.data)
        check_judged(dataset)
        if is_referring(dataset):
            raise UserError(
                f"{path}: {one.name} has referring expressions, and a list is of classes: "
                "evaluate it by itself"
            )
    return sets


def run_list(
    args: argparse.Namespace,
    sets: Sequence[Listed],
    prepared: Prepared,
    plain: Callable[[Evaluation], dict],
) -> None:
    """Judge the data sets that `args.json` has no result of yet, and print a table of all.

    Args:
      plain: an evaluation as JSON.

    Raises:
      UserError: weights that read no captions, or a file of other settings.
    """
    if prepared.tokenizer is None:
        raise UserError(
            f"a list of data sets is judged by the names of their classes; {args.weights} are a "
            f"{type(prepared.weights.model).__name__}'s, which reads none: evaluate it on each"
        )

    def judge(one: Listed) -> dict:
        evaluator = prepared.evaluator(open_dataset(one.data), one.names)
        return plain(evaluator.evaluate(prepared.weights.params, one.name))

    settings = {name: _plain(getattr(args, name)) for name in SETTINGS}
    first = jax.process_index() == 0

    def save(results: dict) -> None:
        if first and args.json:
            write_json(args.json, {"settings": settings, **summary(results), "sets": results})

    say = print if first else lambda line: None
    done = _done(args.json, settings)
    results = judge_list(sets, judge, done, save, say)
    save(results)
    say("\n" + render(results))


def _done(path: Path | None, settings: dict) -> dict[str, dict]:
    """What an earlier run of these settings wrote; process 0 reads it for all."""
    answer: dict = {}
    if jax.process_index() == 0 and path is not None and path.exists():
        answer = _read(path, settings)
    answer = json.loads(gather_bytes(json.dumps(answer).encode())[0])
    if "problem" in answer:
        raise UserError(answer["problem"])
    return answer.get("sets", {})


def _read(path: Path, settings: dict) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        old, sets = content["settings"], dict(content["sets"])
    except (OSError, ValueError, KeyError, TypeError):
        return {"problem": f"{path} is not what a list of data sets wrote: name another --json"}
    changed = [name for name in settings if old.get(name) != settings[name]]
    if changed:
        name = changed[0]
        return {
            "problem": f"{path} was begun with {name} {old.get(name)!r}, and this run has "
            f"{settings[name]!r}: name another --json, or delete it"
        }
    return {"sets": sets}


def _plain(value):
    """A setting as JSON has it; a path as a whole one."""
    if isinstance(value, str | Path) and Path(value).exists():
        return str(Path(value).resolve())
    return value

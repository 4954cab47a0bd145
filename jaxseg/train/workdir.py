"""The folder of a run: where it is, what it holds already, and the settings it was made with."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxseg.errors import UserError
from jaxseg.train.experiment import Experiment
from jaxseg.train.overrides import settings


def default_workdir(config: str) -> Path:
    """Where a run of a config goes."""
    # Not beside a config file, wherever that is.
    return Path("runs") / (Path(config).stem if config.endswith(".py") else config)


def check_workdir(workdir: Path, resume: str) -> None:
    """Raise `UserError` if the folder is not as `--resume` demands."""
    latest = workdir / "checkpoints" / "latest"
    has_some = latest.is_dir() and any(entry.name.isdigit() for entry in latest.iterdir())
    if resume == "never" and has_some:
        raise UserError(
            f"{workdir} holds a run already: choose another --workdir, or --resume auto to go on"
        )
    if resume == "must" and not has_some:
        raise UserError(f"{workdir} holds no checkpoint to resume from: check --workdir")
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"{workdir} is a file: choose another --workdir")


def write_settings(
    workdir: Path, config: str, overrides: Sequence[str], experiment: Experiment
) -> None:
    """Write experiment.json, for people and for `changed_settings`."""
    record = {
        "config": config,
        "overrides": list(overrides),
        "settings": {name: text_of(v) for name, v in settings(experiment).items()},
    }
    workdir.mkdir(parents=True, exist_ok=True)
    partial = workdir / "experiment.json.partial"
    partial.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, workdir / "experiment.json")


def changed_settings(workdir: Path, experiment: Experiment) -> list[str]:
    """What is set otherwise than when the run was last started, a line each."""
    try:
        old = json.loads((workdir / "experiment.json").read_text(encoding="utf-8"))["settings"]
    except (OSError, ValueError, KeyError):
        return ["(the run's experiment.json cannot be read)"]
    new = {name: text_of(value) for name, value in settings(experiment).items()}
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return [f"{name}: {old.get(name)} → {new.get(name)}" for name in names]


def text_of(value: Any) -> str:
    """A setting as it is shown and compared."""
    # A function's repr holds its address, which differs from run to run.
    return getattr(value, "__name__", None) or repr(value)

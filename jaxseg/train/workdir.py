"""The folder of a run: where it is, what it holds already, and what it was started with."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxseg.errors import UserError
from jaxseg.native import check_replaceable, encode_kwargs
from jaxseg.train.experiment import Experiment
from jaxseg.train.export import FOLDERS, Export
from jaxseg.train.overrides import settings
from jaxseg.train.weights import Builder

RECORD = "experiment.json"


def default_workdir(config: str) -> Path:
    """Where a run of a config goes."""
    # Not beside a config file, wherever that is.
    return Path("runs") / (Path(config).stem if config.endswith(".py") else config)


def check_workdir(workdir: Path, resume: str) -> bool:
    """Whether the folder holds a run to go on with.

    Raises:
      UserError: it is not as `--resume` demands, or the weights could not be written to it.
    """
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"{workdir} is a file: choose another --workdir")
    latest = workdir / "checkpoints" / "latest"
    has_some = latest.is_dir() and any(entry.name.isdigit() for entry in latest.iterdir())
    if resume == "never" and has_some:
        raise UserError(
            f"{workdir} holds a run already: choose another --workdir, or --resume auto to go on"
        )
    if resume == "must" and not has_some:
        raise UserError(f"{workdir} holds no checkpoint to resume from: check --workdir")
    for name in FOLDERS:
        check_replaceable(workdir / name)
    return has_some


@dataclass(frozen=True)
class Record:
    """What a run was last started with, as far as its experiment.json can be read.

    Attributes:
      settings: by their dotted names, as text.
      export: what is written beside its weights.
      init: what the model that it began with is built of, where the config has none.
    """

    settings: dict[str, str] | None = None
    export: Export | None = None
    init: Builder | None = None

    def changes(self, experiment: Experiment) -> list[str]:
        """What an experiment sets otherwise, a line each."""
        if self.settings is None:
            return [f"(the run's {RECORD} cannot be read)"]
        old, new = self.settings, _as_text(experiment)
        names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
        return [f"{name}: {old.get(name)} → {new.get(name)}" for name in names]


def write_record(
    workdir: Path,
    config: str,
    overrides: Sequence[str],
    experiment: Experiment,
    export: Export,
    init: Builder | None,
) -> None:
    """Write experiment.json, for people and for `read_record`."""
    record = {
        "config": config,
        "overrides": list(overrides),
        "settings": _as_text(experiment),
        "export": export.to_json(),
        "init": init and [init[0], encode_kwargs(init[1])],
    }
    workdir.mkdir(parents=True, exist_ok=True)
    partial = workdir / f"{RECORD}.partial"
    partial.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, workdir / RECORD)


def read_record(workdir: Path) -> Record:
    """What `write_record` wrote there last; empty if that cannot be read."""
    try:
        found = json.loads((workdir / RECORD).read_text(encoding="utf-8"))
        export, init = found.get("export"), found.get("init")
        return Record(found["settings"], export and Export.from_json(export), init and tuple(init))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Record()


def text_of(value: Any) -> str:
    """A setting as it is shown and compared."""
    # A function's repr holds its address, which differs from run to run.
    return getattr(value, "__name__", None) or repr(value)


def _as_text(experiment: Experiment) -> dict[str, str]:
    return {name: text_of(value) for name, value in settings(experiment).items()}

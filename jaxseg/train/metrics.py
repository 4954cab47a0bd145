"""Figures of a run: one JSON object a line, and TensorBoard."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

EVALUATION = "eval/"


class MetricsLog:
    """Appends to DIRECTORY/metrics.jsonl and DIRECTORY/tensorboard.

    Args:
      directory: of the run.
      step: the step that the run resumes at. Lines of later steps, written by a process that
        was killed before its next checkpoint, are removed: they will be written again.
      enabled: only one process writes.

    Attributes:
      evaluated: the last step whose evaluation is on record.
    """

    def __init__(self, directory: str | Path, step: int = 0, *, enabled: bool = True):
        self.path = Path(directory) / "metrics.jsonl"
        self._file = self._board = None
        self.evaluated: int | None = None
        if enabled:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.evaluated = _drop_lines_after(self.path, step)
            self._file = self.path.open("a", encoding="utf-8")
            self._board = _summary_writer(self.path.parent / "tensorboard", step)

    def write(self, step: int, values: Mapping[str, float], prefix: str = "") -> None:
        """Record `values` after `step` steps; what is not finite becomes null in JSON."""
        if self._file is None:
            return
        named = {prefix + name: float(value) for name, value in values.items()}
        line = {name: value if math.isfinite(value) else None for name, value in named.items()}
        self._file.write(json.dumps({"step": step, **line}, allow_nan=False) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in line.items():
                if value is None:
                    continue
                tag = name if "/" in name else f"train/{name}"
                self._board.add_scalar(tag, value, step)

    def close(self) -> None:
        """Flush and close both."""
        for sink in (self._file, self._board):
            if sink is not None:
                sink.close()


def _drop_lines_after(path: Path, step: int) -> int | None:
    """Rewrite the file up to a step; returns the step of the last evaluation that stays."""
    if not path.exists():
        return None
    kept, evaluated = [], None
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
            if line["step"] > step:
                continue
        except (ValueError, KeyError):  # the line that was being written when the process died
            continue
        kept.append(text + "\n")
        if any(name.startswith(EVALUATION) for name in line):
            evaluated = line["step"]
    partial = path.with_name(path.name + ".partial")
    partial.write_text("".join(kept), encoding="utf-8")
    partial.replace(path)
    return evaluated


def _summary_writer(directory: Path, step: int):
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        print("TensorBoard's files are not written: pip install tensorboardX to have them")
        return None
    return SummaryWriter(str(directory), purge_step=step + 1)

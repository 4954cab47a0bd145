"""Checkpoints of a run: the only module that knows Orbax.

    DIRECTORY/latest/STEP   the last two, and every `keep_every`-th for good
    DIRECTORY/best/STEP     the one whose evaluation was best
    DIRECTORY/replaced/     the best one while it is saved anew
    DIRECTORY/unreadable/   what was found damaged

A step's folder appears under its name only when it is whole, so a killed save leaves nothing
that could be taken for a checkpoint.
"""

import math
import shutil
import warnings
from functools import partial
from pathlib import Path

import jax

from jaxseg.errors import UserError
from jaxseg.program import install_line
from jaxseg.train.state import TrainState
from jaxseg.train.together import UnreadableError, move, once, read_together

KEPT = 2  # should the newest be damaged on disk, there is one before it


class Checkpoints:
    """Saves and restores training states; every process must make the same calls.

    Args:
      directory: created when it is missing.
      keep_every: checkpoints at multiples of this step are never deleted; None keeps no such.
    """

    def __init__(self, directory: str | Path, *, keep_every: int | None = None):
        self.directory = Path(directory).absolute()
        self._replaced = self.directory / "replaced"
        once(self._bring_back, "best checkpoint in its place")
        self._latest = _manager(self.directory / "latest", KEPT, keep_every)
        self._best = _manager(self.directory / "best", 1, None)

    @property
    def latest_step(self) -> int | None:
        """The newest saved step, whether or not it can be read."""
        return self._latest.latest_step()

    @property
    def best_step(self) -> int | None:
        """The step of the best evaluation."""
        return self._best.latest_step()

    def save(self, step: int, state: TrainState) -> None:
        """Save `state` as the state after `step` steps, unless this step is saved already."""
        if step not in self._latest.all_steps():
            _save(self._latest, step, state, {})

    def save_best(self, step: int, state: TrainState, value: float) -> bool:
        """Save if no checkpoint before had a higher `value` (NaN never is); says whether."""
        best = self.best_value()
        if math.isnan(value) or (best is not None and value < best):
            return False
        again = step in self._best.all_steps()
        if again:
            # A run that is killed here finds the old one again.
            best = self.directory / "best" / str(step)
            once(partial(move, best, self._replaced / str(step)), "best checkpoint laid aside")
            self._best.reload()
        _save(self._best, step, state, {"value": value})
        if again:
            self._best.wait_until_finished()
            gone = partial(shutil.rmtree, self._replaced, ignore_errors=True)
            once(gone, "best checkpoint replaced")
        return True

    def best_value(self) -> float | None:
        """What the best evaluation measured; one that cannot be read is moved away."""
        while (step := self.best_step) is not None:
            self._best.wait_until_finished()
            try:
                return read_together(partial(_note, self._best, step))["value"]
            except UnreadableError as error:
                self._set_aside("best", {step: str(error)})
        return None

    def restore(self, abstract: TrainState) -> TrainState | None:
        """The newest state that can be read, laid out as `abstract` says; None if none is saved.

        Where a newer checkpoint cannot be read, it is moved to DIRECTORY/unreadable with a
        warning, and the one before it is taken.

        Raises:
          UserError: a checkpoint is of another model or optimizer, or none can be read.
        """
        damaged = {}
        for step in sorted(self._latest.all_steps(), reverse=True):
            try:
                found, state = read_together(partial(_read, self._latest, step, abstract))
            except UnreadableError as error:
                damaged[step] = str(error)
                continue
            if state is None:
                raise UserError(_difference(self.directory, step, found, _shapes(abstract)))
            self._set_aside("latest", damaged)
            return state
        if damaged:
            raise UserError(
                f"no checkpoint in {self.directory} can be read ({'; '.join(damaged.values())}): "
                "look at the disk, or start again with another --workdir"
            )
        return None

    def restore_best(self, abstract: TrainState) -> TrainState | None:
        """The state of the best evaluation; None if there is none or it cannot be read."""
        step = self.best_step
        if step is None:
            return None
        self._best.wait_until_finished()
        try:
            return read_together(partial(_restore, self._best, step, abstract))
        except UnreadableError as error:
            self._set_aside("best", {step: str(error)})
            return None

    def reached_preemption(self, step: int) -> bool:
        """Whether the cluster is about to stop this job; agreed upon by all processes."""
        return self._latest.reached_preemption(step)

    def close(self) -> None:
        """Wait until everything is on disk."""
        for manager in (self._latest, self._best):
            manager.wait_until_finished()
            manager.close()

    def _bring_back(self) -> None:
        """Undo a replacement of the best that was killed before the new one was whole."""
        old, new = _steps(self._replaced), _steps(self.directory / "best")
        if old and not new:
            move(old[0], self.directory / "best" / old[0].name)
        shutil.rmtree(self._replaced, ignore_errors=True)

    def _set_aside(self, kind: str, damaged: dict[int, str]) -> None:
        best = kind == "best"
        for step, why in damaged.items():
            warnings.warn(
                f"checkpoint {kind}/{step} in {self.directory} cannot be read and is moved to "
                f"unreadable/; going on {'without it' if best else 'from the one before'} ({why})",
                stacklevel=3,
            )
            target = self.directory / "unreadable" / (f"best-{step}" if best else str(step))
            source = self.directory / kind / str(step)
            once(partial(move, source, target), f"unreadable {kind}/{step} moved")
        if damaged:
            (self._best if best else self._latest).reload()


def _steps(directory: Path) -> list[Path]:
    return [entry for entry in directory.glob("*") if entry.name.isdigit()]


def _manager(directory: Path, keep: int, keep_every: int | None):
    try:
        from orbax.checkpoint import (
            CheckpointManager,
            CheckpointManagerOptions,
            JsonCheckpointHandler,
            StandardCheckpointHandler,
        )
    except ImportError as error:
        raise UserError(
            f"training needs Orbax for its checkpoints: {install_line('train')}"
        ) from error
    # On CPU the copy that an asynchronous save works on is the training's own memory and time.
    asynchronous = jax.default_backend() != "cpu"
    options = CheckpointManagerOptions(
        max_to_keep=keep, keep_period=keep_every, enable_async_checkpointing=asynchronous
    )
    directory.mkdir(parents=True, exist_ok=True)
    # Named handlers, or a manager that has not saved yet could not read descriptions.
    handlers = {"state": StandardCheckpointHandler(), "note": JsonCheckpointHandler()}
    return CheckpointManager(directory, options=options, item_handlers=handlers)


def _save(manager, step: int, state: TrainState, note: dict) -> None:
    from orbax.checkpoint import args

    items = args.Composite(state=args.StandardSave(state), note=args.JsonSave(note))
    manager.save(step, args=items, force=True)


def _restore(manager, step: int, abstract: TrainState) -> TrainState:
    from orbax.checkpoint import args

    items = args.Composite(state=args.StandardRestore(abstract))
    return manager.restore(step, args=items)["state"]


def _read(manager, step: int, abstract: TrainState) -> tuple[dict, TrainState | None]:
    """The shapes that were saved, and the state if they are those of `abstract`."""
    found = _shapes(_metadata(manager, step))
    fits = found == _shapes(abstract)
    return found, _restore(manager, step, abstract) if fits else None


def _note(manager, step: int) -> dict:
    from orbax.checkpoint import args

    return manager.restore(step, args=args.Composite(note=args.JsonRestore()))["note"]


def _metadata(manager, step: int):
    tree = manager.item_metadata(step)["state"]
    if tree is None:
        raise ValueError("the description of the arrays is missing")
    return tree.tree if hasattr(tree, "tree") else tree


def _shapes(tree) -> dict[str, tuple[int, ...]]:
    paths = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in paths
    }


def _difference(directory: Path, step: int, found: dict, wanted: dict) -> str:
    lines = [f"{path} is missing" for path in sorted(wanted.keys() - found.keys())]
    lines += [f"{path} is not wanted" for path in sorted(found.keys() - wanted.keys())]
    lines += [
        f"{path} is {found[path]}, not {wanted[path]}"
        for path in sorted(wanted.keys() & found.keys())
        if found[path] != wanted[path]
    ]
    more = f", and {len(lines) - 4} more" if len(lines) > 4 else ""
    return (
        f"checkpoint {step} in {directory} is of another model or optimizer: "
        f"{'; '.join(lines[:4])}{more}. Resume with the settings it was made with, or choose "
        "another --workdir"
    )

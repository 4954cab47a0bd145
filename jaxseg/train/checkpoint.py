"""Checkpoints of a run: the only module that knows Orbax.

    DIRECTORY/latest/STEP   the last two, and every `keep_every`-th for good
    DIRECTORY/best/STEP     the one whose evaluation was best

A step's folder appears under its name only when it is whole, so a killed save leaves nothing
that could be taken for a checkpoint.
"""

import math
import shutil
import warnings
from pathlib import Path

import jax

from jaxseg.errors import UserError
from jaxseg.train.state import TrainState

KEPT = 2  # should the newest be damaged on disk, there is one before it


class Checkpoints:
    """Saves and restores training states; every process must make the same calls.

    Args:
      directory: created when it is missing.
      keep_every: checkpoints at multiples of this step are never deleted; None keeps no such.
    """

    def __init__(self, directory: str | Path, *, keep_every: int | None = None):
        self.directory = Path(directory).absolute()
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
        if step in self._best.all_steps():
            self._best.delete(step)
        _save(self._best, step, state, {"value": value})
        return True

    def best_value(self) -> float | None:
        """What the best evaluation measured."""
        from orbax.checkpoint import args

        if self.best_step is None:
            return None
        self._best.wait_until_finished()
        kept = self._best.restore(self.best_step, args=args.Composite(note=args.JsonRestore()))
        return kept["note"]["value"]

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
                found = _shapes(_metadata(self._latest, step))
                state = _restore(self._latest, step, abstract) if _agree(found, abstract) else None
            except Exception as error:  # whatever a damaged file makes Orbax raise
                damaged[step] = f"{type(error).__name__}: {str(error)[:200]}"
                continue
            if state is None:
                raise UserError(_difference(self.directory, step, found, _shapes(abstract)))
            self._set_aside(damaged)
            return state
        if damaged:
            raise UserError(
                f"no checkpoint in {self.directory} can be read ({'; '.join(damaged.values())}): "
                "look at the disk, or start again with another --workdir"
            )
        return None

    def restore_best(self, abstract: TrainState) -> TrainState | None:
        """The state of the best evaluation, or None."""
        step = self.best_step
        return None if step is None else _restore(self._best, step, abstract)

    def reached_preemption(self, step: int) -> bool:
        """Whether the cluster is about to stop this job; agreed upon by all processes."""
        return self._latest.reached_preemption(step)

    def close(self) -> None:
        """Wait until everything is on disk."""
        for manager in (self._latest, self._best):
            manager.wait_until_finished()
            manager.close()

    def _set_aside(self, damaged: dict[int, str]) -> None:
        for step, why in damaged.items():
            warnings.warn(
                f"checkpoint {step} in {self.directory} cannot be read and is moved to "
                f"unreadable/; going on from the one before ({why})",
                stacklevel=3,
            )
            if jax.process_index() == 0:
                target = self.directory / "unreadable" / str(step)
                shutil.rmtree(target, ignore_errors=True)
                target.parent.mkdir(exist_ok=True)
                (self.directory / "latest" / str(step)).rename(target)
        if damaged:
            if jax.process_count() > 1:
                from jax.experimental import multihost_utils

                multihost_utils.sync_global_devices("unreadable checkpoints moved")
            self._latest.reload()


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
            "training needs Orbax for its checkpoints: pip install 'jaxseg[train]'"
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


def _metadata(manager, step: int):
    tree = manager.item_metadata(step)["state"]
    if tree is None:
        raise ValueError("the description of the arrays is missing")
    return tree.tree if hasattr(tree, "tree") else tree


def _agree(found: dict[str, tuple[int, ...]], abstract: TrainState) -> bool:
    return found == _shapes(abstract)


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

"""What all processes do with the folders of a run: read or give up together, move once."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

T = TypeVar("T")

PAUSES = (1.0, 4.0)  # seconds; a network disk that stumbled has mostly got up by then


class UnreadableError(Exception):
    """Something on disk could not be read, by one process at least, however often."""


def read_together(read: Callable[[], T]) -> T:
    """What `read` returns, in every process or in none.

    Raises:
      UnreadableError: it failed every time somewhere.
    """
    for pause in (*PAUSES, None):
        value, why = _attempt(read)
        if agree(why is None):
            return value
        if pause is not None:
            time.sleep(pause)
    raise UnreadableError(why or "another process could not read it")


def agree(fine: bool) -> bool:
    """Whether all processes say so."""
    if jax.process_count() == 1:
        return fine
    return bool(multihost_utils.process_allgather(np.asarray(fine)).all())


def once(change: Callable[[], None], name: str) -> None:
    """Change something on disk in process 0; all processes go on when it is done."""
    if jax.process_index() == 0:
        change()
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def move(source: Path, target: Path) -> None:
    """Rename a folder, over whatever is there."""
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    source.rename(target)


def _attempt(read: Callable[[], T]) -> tuple[T | None, str | None]:
    try:
        return read(), None
    except Exception as error:  # whatever a damaged file makes its reader raise
        return None, f"{type(error).__name__}: {str(error)[:200]}"

"""The state that a run begins or goes on with, and what there is to say about it."""

import sys
import time
from pathlib import Path

import jax

from jaxseg.errors import UserError
from jaxseg.train.checkpoint import Checkpoints
from jaxseg.train.session import Session
from jaxseg.train.state import TrainState
from jaxseg.train.workdir import Record


def first_state(session: Session) -> TrainState:
    """The state before the first step."""

    def say(*lines: str) -> None:
        if jax.process_index() == 0:
            print(*lines, sep="\n", file=sys.stderr, flush=True)

    say(*session.notes, "making the parameters")
    started = time.monotonic()
    state = jax.block_until_ready(session.create_state())
    say(f"made in {time.monotonic() - started:.0f} s")
    return state


def saved_state(
    session: Session, checkpoints: Checkpoints, record: Record, workdir: Path
) -> TrainState:
    """The newest state that the run has saved.

    Raises:
      UserError: it is of another run than the session's.
    """
    state = checkpoints.restore(session.abstract_state())
    if state is None:
        raise UserError(
            f"{workdir / 'checkpoints'} holds no whole checkpoint: remove it to start again"
        )
    _check(state, session, workdir)
    if jax.process_index() == 0:
        changes = record.changes(session.given)
        _say_resumed(int(state.step), session.num_steps, workdir, changes)
    return state


def _check(state: TrainState, session: Session, workdir: Path) -> None:
    step, seed = int(state.step), session.experiment.seed
    if step > session.num_steps:
        raise UserError(
            f"the checkpoint in {workdir} is of step {step}, and the run shall have "
            f"{session.num_steps}: raise epochs or steps, or choose another --workdir"
        )
    if int(state.seed) != seed:
        raise UserError(
            f"the run in {workdir} has the seed {int(state.seed)}, which its data and its dropout "
            f"go on with; got seed={seed}: set seed={int(state.seed)}, or choose another --workdir"
        )


def _say_resumed(step: int, num_steps: int, workdir: Path, changes: list[str]) -> None:
    if step < num_steps:
        print(f"resuming at step {step} of {num_steps} from {workdir}")
        for line in changes:
            print(f"  changed since: {line}")
        return
    print(f"the run in {workdir} is finished at step {step}: nothing is trained")
    for line in changes:
        print(f"  has no effect: {line}")
    if changes:
        print("  raise steps or epochs, or choose another --workdir")

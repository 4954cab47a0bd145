"""The loop around the step: compile, measure, evaluate, save, and stop when asked to."""

import contextlib
import dataclasses
from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from jaxseg.errors import UserError
from jaxseg.parallel.shard import global_batch
from jaxseg.structures import Batch
from jaxseg.train.checkpoint import Checkpoints
from jaxseg.train.compiled import CompiledStep
from jaxseg.train.interrupt import Interrupt, Stopped
from jaxseg.train.metrics import EVALUATION, MetricsLog
from jaxseg.train.nonfinite import nonfinite_error
from jaxseg.train.progress import Progress
from jaxseg.train.state import TrainState
from jaxseg.train.step import Report, Step

Evaluate = Callable[[dict[str, Any], int, Callable[[], None]], dict[str, float]]


class Batches(Protocol):
    """What the loop asks of a loader.

    Attributes:
      dropped: objects of this process's batches so far that no slot was left for.
    """

    dropped: int

    def iterate(self, start_step: int, num_steps: int | None = None) -> Generator[Batch]:
        """This process's rows of the batches of steps start, start + 1, …"""


@dataclasses.dataclass(frozen=True)
class Plan:
    """When things happen; every number counts steps.

    Attributes:
      num_steps: of the whole run.
      batch_size: images of a step, over all processes.
      evaluate_every, checkpoint_every: None never does so before the end.
      log_every: how often metrics are written.
      metric: of the evaluation, that "best" means; higher is better.
    """

    num_steps: int
    batch_size: int
    evaluate_every: int | None = None
    checkpoint_every: int | None = None
    log_every: int = 1
    metric: str = "AP"

    def due(self, every: int | None, step: int) -> bool:
        """Whether something happens after `step` steps; at the end it always does."""
        return step == self.num_steps or (every is not None and step % every == 0)


class Pending(NamedTuple):
    """A step that is being computed.

    Attributes:
      done: its number, counted from 1.
      index: of its images in the data set.
      dropped: the loader's count after its batch.
    """

    done: int
    report: Report
    index: np.ndarray
    dropped: int


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended: its state, and the reason if it was asked to stop before its end."""

    state: TrainState
    interrupted: str | None = None


class Trainer:
    """One run from wherever its state stands to the end of its plan.

    Args:
      step: from `step.make_step`.
      trainable: paths in the order of the step's reports.
      image_ids: of the data set, by `Batch.index`; for messages.
      learning_rate: of a step, for the record.
      evaluate: from parameters, the number of steps and a function to named figures. The
        function may be called at any time, equally often in all processes: its exception ends
        the evaluation when the run shall stop.
    """

    def __init__(
        self,
        step: Step,
        plan: Plan,
        mesh: Mesh,
        checkpoints: Checkpoints,
        metrics: MetricsLog,
        *,
        trainable: Sequence[str],
        image_ids: Sequence,
        learning_rate: Callable[[int], float],
        evaluate: Evaluate | None = None,
    ):
        self._step, self._plan, self._mesh = step, plan, mesh
        self._checkpoints, self._metrics, self._evaluate = checkpoints, metrics, evaluate
        self._trainable, self._image_ids = sorted(trainable), image_ids
        self._learning_rate, self._polls = learning_rate, 0
        self._pending: deque[Pending] = deque()

    def run(self, state: TrainState, loader: Batches) -> Outcome:
        """Train to the end, or until asked to stop.

        Raises:
          NonFiniteError: loss or gradients are not finite; nothing is saved after that.
        """
        plan, start = self._plan, int(state.step)
        main = jax.process_index() == 0
        with contextlib.ExitStack() as stack:
            self._interrupt = stack.enter_context(Interrupt())
            show = Progress(plan.num_steps, start, plan.batch_size, plan.log_every, main)
            self._progress = stack.enter_context(show)
            step = CompiledStep(self._step, state, self._mesh, self._progress.say)
            loading = loader.iterate(start, plan.num_steps - start)
            batches = stack.enter_context(contextlib.closing(loading))
            try:
                if self._missed_evaluation(start):
                    self._evaluate_now(start, state)
                for done in range(start + 1, plan.num_steps + 1):
                    rows, batch = self._next_batch(batches, step, state)
                    state, report = step(state, batch)
                    self._pending.append(Pending(done, report, rows.index, loader.dropped))
                    # The previous step's report is read while this one is computed.
                    self._read_reports(leave=1)
                    self._progress.advance()
                    self._after(done, state)
            except Stopped as stopped:
                self._save(int(state.step), state)
                return Outcome(state, stopped.reason)
        return Outcome(state)

    def _next_batch(self, batches: Generator, step: CompiledStep, state: TrainState):
        """This process's rows and the global batch of the next step, compiled for."""
        try:
            rows = next(batches)
        except Exception as error:
            # The signal that asks to stop may have ended what the loader needs.
            if self._interrupt.requested is None:
                raise
            raise Stopped(self._interrupt.requested) from error
        batch = global_batch(rows, self._mesh)
        if not step.has(batch):
            with self._progress.paused():
                step.compile(state, batch)
            self._poll()
        return rows, batch

    def _missed_evaluation(self, start: int) -> bool:
        """Whether the run was killed after saving step `start` and before evaluating it."""
        if not start or self._evaluate is None or not self._due_evaluation(start):
            return False
        missed = self._metrics.evaluated != start
        if jax.process_count() == 1:
            return missed
        # Only process 0 has the record, and all must agree.
        return bool(multihost_utils.broadcast_one_to_all(np.asarray(missed)))

    def _due_evaluation(self, done: int) -> bool:
        return self._plan.due(self._plan.evaluate_every, done)

    def _poll(self) -> None:
        """Raises `Stopped` if the run is asked to stop, in all processes at the same call."""
        self._polls += 1
        if self._checkpoints.reached_preemption(self._polls):
            raise Stopped(self._interrupt.received or "preemption")
        if self._interrupt.requested is not None:
            raise Stopped(self._interrupt.requested)

    def _after(self, done: int, state: TrainState) -> None:
        plan = self._plan
        evaluate = self._evaluate is not None and self._due_evaluation(done)
        # An evaluation may take long, and may be killed.
        if evaluate or plan.due(plan.checkpoint_every, done):
            self._save(done, state)
        self._poll()
        if evaluate:
            self._evaluate_now(done, state)
            if done < plan.num_steps:
                self._poll()

    def _save(self, done: int, state: TrainState) -> None:
        self._read_reports(leave=0)  # so that nothing is saved that was not finite
        with self._progress.paused():
            self._checkpoints.save(done, state)

    def _evaluate_now(self, done: int, state: TrainState) -> None:
        with self._progress.paused():
            values = self._evaluate(state.averaged(), done, self._poll)
            metric = self._plan.metric
            if metric not in values:
                raise UserError(
                    f"the evaluation has no metric {metric!r}; it has {', '.join(values)}: set "
                    "metric"
                )
            best = self._checkpoints.save_best(done, state, values[metric])
            # Last: its line says that the evaluation need not be made up for.
            self._metrics.write(done, values, EVALUATION)
        shown = dict.fromkeys((metric, *list(values)[:3]))
        text = ", ".join(f"{name} {values[name]:.3f}" for name in shown)
        self._progress.say(f"step {done}: {text}{' (best so far)' if best else ''}")

    def _read_reports(self, leave: int) -> None:
        while len(self._pending) > leave:
            pending = self._pending.popleft()
            if not bool(pending.report.finite):
                self._pending.clear()
                raise nonfinite_error(
                    pending.done,
                    jax.device_get(pending.report),
                    np.asarray(pending.index),
                    trainable=self._trainable,
                    image_ids=self._image_ids,
                    saved=self._checkpoints.latest_step,
                )
            if self._plan.due(self._plan.log_every, pending.done):
                self._log(pending)

    def _log(self, pending: Pending) -> None:
        values = {name: float(value) for name, value in pending.report.metrics.items()}
        self._progress.show(values["loss"])
        rates = {
            "learning_rate": float(f"{self._learning_rate(pending.done - 1):.6g}"),
            "images_per_second": round(self._progress.images_per_second, 2),
            "dropped_objects": pending.dropped,
        }
        self._metrics.write(pending.done, values | rates)

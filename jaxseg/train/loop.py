"""The loop around the step: compile, measure, evaluate, save, and stop when asked to."""

import contextlib
import dataclasses
import math
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxseg.errors import UserError
from jaxseg.parallel.shard import global_batch
from jaxseg.structures import Batch
from jaxseg.train.checkpoint import Checkpoints
from jaxseg.train.interrupt import Interrupt
from jaxseg.train.metrics import EVALUATION, MetricsLog
from jaxseg.train.progress import Progress
from jaxseg.train.state import TrainState
from jaxseg.train.step import Report, Step


class NonFiniteError(UserError):
    """The loss or a gradient became NaN or infinite; the last checkpoint stands."""


class Batches(Protocol):
    """What the loop asks of a loader."""

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


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended: its state, and the reason if it was asked to stop before its end."""

    state: TrainState
    interrupted: str | None = None


class CompiledStep:
    """A step compiled once for each shape of batch, and never silently again.

    Args:
      state: whose layout the results keep.
      say: is told of each compilation.
    """

    def __init__(self, step: Step, state: TrainState, mesh: Mesh, say: Callable[[str], None]):
        replicated = NamedSharding(mesh, PartitionSpec())
        layout = jax.tree.map(lambda x: x.sharding, state)
        self._jitted = jax.jit(step, donate_argnums=0, out_shardings=(layout, replicated))
        self._mesh, self._say, self._programs = mesh, say, {}

    def compile(self, state: TrainState, batch: Batch) -> None:
        """Compile for a batch's shapes (global arrays or `jax.ShapeDtypeStruct`s)."""
        b, h, w, _ = batch.images.pixels.shape
        self._say(f"compiling the step for {b} images on canvases of {h} × {w}")
        started = time.monotonic()
        # Kernels and matching find the mesh in the ambient context.
        with jax.set_mesh(self._mesh):
            self._programs[_shapes(batch)] = self._jitted.lower(state, batch).compile()
        self._say(f"compiled in {time.monotonic() - started:.0f} s")

    def has(self, batch: Batch) -> bool:
        """Whether this batch's shapes were compiled."""
        return _shapes(batch) in self._programs

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Report]:
        return self._programs[_shapes(batch)](state, batch)


def _shapes(batch: Batch) -> tuple:
    return tuple((x.shape, str(x.dtype)) for x in jax.tree.leaves(batch))


class Trainer:
    """One run from wherever its state stands to the end of its plan.

    Args:
      step: from `step.make_step`.
      trainable: paths in the order of the step's reports.
      image_ids: of the data set, by `Batch.index`; for messages.
      learning_rate: of a step, for the record.
      evaluate: from parameters and the number of steps to named figures.
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
        evaluate: Callable[[dict[str, Any], int], dict[str, float]] | None = None,
    ):
        self._step, self._plan, self._mesh = step, plan, mesh
        self._checkpoints, self._metrics, self._evaluate = checkpoints, metrics, evaluate
        self._trainable, self._image_ids = sorted(trainable), image_ids
        self._learning_rate = learning_rate
        self._pending: deque[tuple[int, Report, np.ndarray]] = deque()

    def run(self, state: TrainState, loader: Batches) -> Outcome:
        """Train to the end, or until asked to stop.

        Raises:
          NonFiniteError: loss or gradients are not finite; nothing is saved after that.
        """
        plan, start = self._plan, int(state.step)
        main = jax.process_index() == 0
        with contextlib.ExitStack() as stack:
            interrupt = stack.enter_context(Interrupt())
            show = Progress(plan.num_steps, start, plan.batch_size, plan.log_every, main)
            self._progress = stack.enter_context(show)
            step = CompiledStep(self._step, state, self._mesh, self._progress.say)
            loading = loader.iterate(start, plan.num_steps - start)
            batches = stack.enter_context(contextlib.closing(loading))
            if self._missed_evaluation(start):
                self._evaluate_now(start, state)
            for done in range(start + 1, plan.num_steps + 1):
                rows = next(batches)
                batch = global_batch(rows, self._mesh)
                if not step.has(batch):
                    with self._progress.paused():
                        step.compile(state, batch)
                state, report = step(state, batch)
                self._pending.append((done, report, np.asarray(rows.index)))
                # The previous step's report is read while this one is computed.
                self._read_reports(leave=1)
                self._progress.advance()
                reason = self._asked_to_stop(interrupt, done)
                self._after(done, state, reason)
                if reason is not None and done < plan.num_steps:
                    return Outcome(state, reason)
        return Outcome(state)

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

    def _asked_to_stop(self, interrupt: Interrupt, done: int) -> str | None:
        if self._checkpoints.reached_preemption(done):
            return "preemption"
        return interrupt.requested

    def _after(self, done: int, state: TrainState, reason: str | None) -> None:
        plan = self._plan
        evaluate = self._evaluate is not None and self._due_evaluation(done)
        save = plan.due(plan.checkpoint_every, done) or reason is not None
        if not (evaluate or save):
            return
        self._read_reports(leave=0)  # so that nothing is saved that was not finite
        with self._progress.paused():
            if save:
                self._checkpoints.save(done, state)
            if evaluate and reason is None:
                self._evaluate_now(done, state)

    def _evaluate_now(self, done: int, state: TrainState) -> None:
        values = self._evaluate(state.averaged(), done)
        self._metrics.write(done, values, EVALUATION)
        metric = self._plan.metric
        if metric not in values:
            raise UserError(
                f"the evaluation has no metric {metric!r}; it has {', '.join(values)}: set metric"
            )
        best = self._checkpoints.save_best(done, state, values[metric])
        shown = dict.fromkeys((metric, *list(values)[:3]))
        text = ", ".join(f"{name} {values[name]:.3f}" for name in shown)
        self._progress.say(f"step {done}: {text}{' (best so far)' if best else ''}")

    def _read_reports(self, leave: int) -> None:
        while len(self._pending) > leave:
            done, report, index = self._pending.popleft()
            if not bool(report.finite):
                self._pending.clear()
                self._stop_for(done, jax.device_get(report), index)
            if self._plan.due(self._plan.log_every, done):
                self._log(done, report)

    def _log(self, done: int, report: Report) -> None:
        values = {name: float(value) for name, value in report.metrics.items()}
        self._progress.show(values["loss"])
        rates = {
            "learning_rate": float(f"{self._learning_rate(done - 1):.6g}"),
            "images_per_second": round(self._progress.images_per_second, 2),
        }
        self._metrics.write(done, values | rates)

    def _stop_for(self, done: int, report: Report, index: np.ndarray) -> None:
        losses = {name: value for name, value in report.metrics.items() if name != "grad_norm"}
        terms = [name for name, value in losses.items() if not math.isfinite(value)]
        finite = report.finite_gradients.tolist()
        gradients = [path for path, ok in zip(self._trainable, finite, strict=True) if not ok]
        ids = [self._image_ids[i] for i in index.tolist()]
        saved = self._checkpoints.latest_step
        stands = "no checkpoint was saved yet" if saved is None else f"checkpoint {saved} stands"
        raise NonFiniteError(
            f"training stopped at step {done} because something is not finite: "
            f"{_some('losses', terms)}; {_some('gradients of', gradients)}. Images of the batch: "
            f"{', '.join(map(repr, ids))}. {stands.capitalize()}. Look at these images with "
            "`jaxseg doctor`, lower optimizer.learning_rate, or compute in float32"
        )


def _some(what: str, names: list[str], limit: int = 8) -> str:
    if not names:
        return f"no {what.split()[0]}"
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"{what} {', '.join(names[:limit])}{more}"

import json
import os
import signal

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxseg.parallel.mesh import MeshShape
from jaxseg.train.checkpoint import Checkpoints
from jaxseg.train.compiled import CompiledStep
from jaxseg.train.loop import Plan, Trainer
from jaxseg.train.metrics import EVALUATION, MetricsLog
from jaxseg.train.nonfinite import NonFiniteError
from tests.quick import QUICK
from tests.train.small import Batches, Parts
from tests.train.test_step import Rooted


@pytest.fixture(autouse=True)
def _compiles_quickly(monkeypatch):
    plain = jax.jit

    def jit(function, **options):
        # A call within a program has no options of its own.
        step = getattr(function, "__module__", None) == "jaxseg.train.step"
        return plain(function, **options | ({"compiler_options": QUICK} if step else {}))

    monkeypatch.setattr(jax, "jit", jit)


class Poisoned(Batches):
    """One batch whose second image's first box is not a number."""

    def iterate(self, start_step, num_steps=None):
        for step, batch in enumerate(super().iterate(start_step, num_steps), start_step):
            if step == 5:
                boxes = batch.targets.boxes.copy()
                boxes[1], batch.targets.mask[1] = np.nan, True
                batch = batch.replace(targets=batch.targets.replace(boxes=boxes))
            yield batch


def run(tmp_path, loader, evaluate=None, parts=None, **plan):
    parts, mesh = parts or Parts(), MeshShape().build(jax.devices()[:1])
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    metrics = MetricsLog(tmp_path, checkpoints.latest_step or 0)
    plan = {"num_steps": 6, "batch_size": loader.rows, "checkpoint_every": 2} | plan
    trainer = Trainer(
        parts.step,
        Plan(**plan),
        mesh,
        checkpoints,
        metrics,
        trainable=parts.trainable,
        image_ids=[f"image-{i}" for i in range(1000)],
        learning_rate=lambda step: 0.5**step,
        evaluate=evaluate,
    )
    try:
        state = jax.device_put(parts.state(), NamedSharding(mesh, PartitionSpec()))
        state = checkpoints.restore(state) or state
        return trainer.run(state, loader), checkpoints
    finally:
        metrics.close()
        checkpoints.close()


def lines(tmp_path):
    return [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]


def test_a_loss_that_is_not_finite_names_terms_gradients_and_images(tmp_path):
    with pytest.raises(NonFiniteError) as caught:
        run(tmp_path, Poisoned(), num_steps=9)
    text = str(caught.value)
    assert "step 6" in text
    assert "losses loss, loss_bbox, loss_giou" in text
    assert "bbox_embed/kernel" in text
    assert "'image-40', 'image-41', 'image-42'" in text
    assert "Checkpoint 4 stands" in text
    saved = sorted(path.name for path in (tmp_path / "checkpoints" / "latest").iterdir())
    assert saved == ["2", "4"]


def test_gradients_that_are_not_finite_stop_a_run_whose_loss_is(tmp_path):
    with pytest.raises(NonFiniteError) as caught:
        run(tmp_path, Batches(rows=2), parts=Parts(criterion=Rooted()))
    text = str(caught.value)
    assert "step 1 because something is not finite: no losses; gradients of bbox_embed/" in text
    assert "class_embed" not in text
    assert "No checkpoint was saved yet" in text


def test_each_canvas_is_compiled_once_and_said(tmp_path, capsys):
    run(tmp_path, Batches(rows=2, sizes=(32, 16)))
    said = [line for line in capsys.readouterr().err.splitlines() if "compiling" in line]
    assert len(said) == 2
    assert "canvases of 32 × 32" in said[0]
    assert "canvases of 16 × 16" in said[1]


def test_evaluation_runs_on_time_and_the_best_is_kept(tmp_path, capsys):
    values = {2: 0.5, 4: 0.9, 6: 0.7}
    asked = []

    def evaluate(params, step, poll):
        asked.append(step)
        assert "class_embed" in params
        return {"AP": values[step]}

    _, checkpoints = run(tmp_path, Batches(rows=2), evaluate, evaluate_every=2)
    assert asked == [2, 4, 6]
    assert checkpoints.best_step == 4
    assert [line["eval/AP"] for line in lines(tmp_path) if "eval/AP" in line] == [0.5, 0.9, 0.7]
    assert "step 4: AP 0.900 (best so far)" in capsys.readouterr().err


def test_metrics_are_written_every_so_many_steps_and_at_the_end(tmp_path):
    run(tmp_path, Batches(rows=2), num_steps=7, log_every=3)
    written = lines(tmp_path)
    assert [line["step"] for line in written] == [3, 6, 7]
    assert [line["learning_rate"] for line in written] == [0.5**2, 0.5**5, 0.5**6]
    assert {"loss", "loss_ce", "grad_norm", "images_per_second"} <= written[0].keys()


def test_a_signal_stops_after_the_step_with_everything_saved(tmp_path):
    class Interrupting(Batches):
        def iterate(self, start_step, num_steps=None):
            for step, batch in enumerate(super().iterate(start_step, num_steps)):
                if step == 2:
                    os.kill(os.getpid(), signal.SIGINT)
                yield batch

    before = signal.getsignal(signal.SIGINT)  # a job in the background begins with it ignored
    outcome, checkpoints = run(tmp_path, Interrupting(rows=2), checkpoint_every=None)
    assert outcome.interrupted == "SIGINT"
    assert checkpoints.latest_step == int(outcome.state.step) == 3
    assert len(lines(tmp_path)) == 3
    assert signal.getsignal(signal.SIGINT) is before


def test_an_evaluation_that_was_killed_is_made_up_for(tmp_path):
    asked = []

    def evaluate(params, step, poll):
        asked.append(step)
        if asked == [2, 4]:
            raise KeyboardInterrupt
        return {"AP": step / 10}

    plan = {"evaluate_every": 2, "num_steps": 8}
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Batches(rows=2), evaluate, **plan)
    run(tmp_path, Batches(rows=2), evaluate, **plan)
    assert asked == [2, 4, 4, 6, 8]
    run(tmp_path, Batches(rows=2), evaluate, **plan)  # there is nothing left to do
    assert asked == [2, 4, 4, 6, 8]
    assert [line["step"] for line in lines(tmp_path) if "eval/AP" in line] == [2, 4, 6, 8]


def interrupt():
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_while_evaluating_stops_at_once_with_the_step_saved(tmp_path):
    asked = []

    def evaluate(params, step, poll):
        asked.append(step)
        if len(asked) == 1:
            interrupt()
            poll()
            pytest.fail("the evaluation goes on")
        return {"AP": 0.5}

    plan = {"evaluate_every": 3, "checkpoint_every": None}
    outcome, checkpoints = run(tmp_path, Batches(rows=2), evaluate, **plan)
    assert outcome.interrupted == "SIGTERM"
    assert checkpoints.latest_step == int(outcome.state.step) == 3
    run(tmp_path, Batches(rows=2), evaluate, **plan)
    assert asked == [3, 3, 6]


def test_a_signal_at_the_end_of_an_evaluation_is_heard_before_the_next_step(tmp_path):
    def evaluate(params, step, poll):
        interrupt()
        return {"AP": 0.5}

    outcome, checkpoints = run(tmp_path, Batches(rows=2), evaluate, evaluate_every=3)
    assert (outcome.interrupted, checkpoints.latest_step) == ("SIGTERM", 3)
    assert checkpoints.best_step == 3


def test_a_signal_while_compiling_saves_the_state_as_it_is(tmp_path, monkeypatch):
    compiled, plain = [], CompiledStep.compile

    def compile_(self, *arguments):
        plain(self, *arguments)
        compiled.append(1)
        if len(compiled) == 2:
            interrupt()

    monkeypatch.setattr(CompiledStep, "compile", compile_)
    outcome, checkpoints = run(tmp_path, Batches(rows=2, sizes=(32, 16)), checkpoint_every=None)
    assert outcome.interrupted == "SIGTERM"
    assert checkpoints.latest_step == int(outcome.state.step) == 1


def test_a_signal_in_the_last_step_says_so_and_the_evaluation_is_made_up_for(tmp_path):
    class Interrupting(Batches):
        def iterate(self, start_step, num_steps=None):
            for step, batch in enumerate(super().iterate(start_step, num_steps), start_step):
                if step == 5:
                    interrupt()
                yield batch

    asked = []

    def evaluate(params, step, poll):
        asked.append(step)
        return {"AP": 0.5}

    outcome, checkpoints = run(tmp_path, Interrupting(rows=2), evaluate)
    assert (outcome.interrupted, checkpoints.latest_step, asked) == ("SIGTERM", 6, [])
    outcome, _ = run(tmp_path, Batches(rows=2), evaluate)
    assert (outcome.interrupted, asked) == (None, [6])


def test_a_loader_that_the_signal_ended_too_does_not_keep_the_run_from_saving(tmp_path):
    class Dying(Batches):
        def iterate(self, start_step, num_steps=None):
            yield from super().iterate(start_step, 3)
            interrupt()
            raise RuntimeError("worker process was terminated")

    outcome, checkpoints = run(tmp_path, Dying(rows=2), checkpoint_every=None)
    assert (outcome.interrupted, checkpoints.latest_step) == ("SIGTERM", 3)


def test_the_best_is_saved_before_its_evaluation_is_on_record(tmp_path, monkeypatch):
    plain = MetricsLog.write

    def write(self, step, values, prefix=""):
        if prefix == EVALUATION and step == 4:
            raise KeyboardInterrupt
        plain(self, step, values, prefix)

    values = {2: 0.5, 4: 0.9, 6: 0.7}
    asked = []

    def evaluate(params, step, poll):
        asked.append(step)
        return {"AP": values[step]}

    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "write", write)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, Batches(rows=2), evaluate, evaluate_every=2)
    _, checkpoints = run(tmp_path, Batches(rows=2), evaluate, evaluate_every=2)
    assert asked == [2, 4, 4, 6]
    assert checkpoints.best_step == 4

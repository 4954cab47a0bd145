import argparse
import dataclasses
import gc
import json
import shutil
import signal
import socket
import warnings
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxseg.checkpoints import from_pretrained, save_pretrained
from jaxseg.cli import main
from jaxseg.data import open_dataset
from jaxseg.errors import UserError
from jaxseg.params import abstract_params, count, flatten
from jaxseg.program import program
from jaxseg.train import begin, command, session
from jaxseg.train.configs import load_config
from jaxseg.train.describe import describe
from jaxseg.train.export import Export
from jaxseg.train.interrupt import Stopped
from jaxseg.train.loop import Trainer
from jaxseg.train.overrides import apply_overrides
from jaxseg.train.session import prepare
from jaxseg.train.workdir import default_workdir, read_record, write_record
from tests.data.files import two_images
from tests.train.config import CONFIG
from tests.train.processes import start


def jaxseg(*arguments):
    process = start("jaxseg", *arguments)
    said = process.communicate(timeout=400)[0]
    assert process.returncode == 0, said
    return said


def test_one_command_trains_evaluates_resumes_and_leaves_weights(config, tmp_path, capsys):
    workdir = tmp_path / "run"
    said = jaxseg("train", config, "ema.decay=0.5", "--workdir", workdir)
    assert "steps    3 of 4 images, 2 an epoch" in said
    assert "step 2: AP " in said
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [x["step"] for x in lines if "loss" in x] == [1, 2, 3]
    assert [x["step"] for x in lines if "eval/AP50" in x] == [2, 3]

    loaded = from_pretrained(workdir / "last")
    assert loaded.classes.names[:2] == ("circle", "square")
    assert (loaded.model.num_classes, loaded.model.decoder.num_layers) == (6, 1)
    assert loaded.image.short_side == 64
    assert count(loaded.params) == count(abstract_params(loaded.model))
    assert (workdir / "best" / "model.safetensors").is_file()

    said = jaxseg("train", config, "ema.decay=0.5", "steps=4", "--workdir", workdir)
    assert "resuming at step 3 of 4" in said
    assert "changed since: steps: 3 → 4" in said
    assert not any(line.get("dropped_objects") for line in lines)
    again = ("train", config, "ema.decay=0.5", "steps=4", "seed=1", "--workdir", workdir)
    assert main(list(map(str, again))) == 2
    assert "has the seed 42" in " ".join(capsys.readouterr().err.split())

    others = ("data.train=synthetic:shapes?size=64&count=8&classes=3", "data.val=none", "steps=1")
    other = ("train", config, f"init={workdir / 'last'}", *others, "--workdir", tmp_path / "next")
    assert "class_embed/kernel start from random weights" in jaxseg(*other)
    settings = (tmp_path / "next" / "experiment.json").read_text()
    shutil.rmtree(workdir / "last")  # a run that goes on does not need what it began with
    said = jaxseg(*other, "optimizer.learning_rate=0.5", "data.image.short_side=32")
    assert "is finished at step 1: nothing is trained" in said
    assert "has no effect: optimizer.learning_rate: 0.0001 → 0.5" in said
    assert "random weights" not in said
    assert (tmp_path / "next" / "experiment.json").read_text() == settings
    # Its weights are still those of the images that it was trained on.
    assert from_pretrained(tmp_path / "next" / "last").image.short_side == 64


def test_after_ctrl_c_a_shell_does_not_go_on_as_if_the_run_had_ended(config, tmp_path):
    """After SIGTERM, which is a scheduler's word, the status is 0: see `test_survival`."""
    long = ("steps=100000", "evaluate_every=100000", "checkpoint_every=100000")
    process = start("jaxseg", "train", config, *long, "--workdir", tmp_path / "run")
    for line in process.stdout:
        if line.startswith("step "):
            break
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=200)[0]
    assert process.returncode == 130, said
    assert "stopped by SIGINT; step" in said


def test_a_run_does_not_hold_on_to_the_weights_it_began_with(config, tmp_path, monkeypatch):
    model = apply_overrides(load_config(str(config)), ["model.num_classes=6"]).model
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), abstract_params(model))
    classes = open_dataset("synthetic:shapes?count=1").classes
    save_pretrained(tmp_path / "w", *describe(model), zeros, classes=classes, probe=False)
    begun, held = [], []

    def first_state(session):
        begun.append(len(session.initial))
        return SimpleNamespace(step=0)

    def run(trainer, state, loader):
        sessions = [x for x in gc.get_objects() if type(x) is session.Session]
        held.extend(x.initial for x in sessions if x.initial is not None)
        raise UserError("that is all")

    monkeypatch.setattr(begin, "first_state", first_state)
    monkeypatch.setattr(Trainer, "run", run)
    command = ["train", str(config), f"init={tmp_path / 'w'}", "--workdir", str(tmp_path / "run")]
    assert main(command) == 2
    assert begun == [len(flatten(zeros))]
    assert held == []


def test_what_is_recorded_are_the_sizes_as_they_were_set(config, tmp_path):
    large = apply_overrides(load_config(str(config)), ["data.scale=2"])
    prepared = prepare(large)
    assert prepared.experiment.data.buckets == ((128, 128),)
    about = Export(*describe(prepared.model), prepared.classes, prepared.experiment.data.image)
    write_record(tmp_path, "large", ["data.scale=2"], prepared.given, about, None)
    record = read_record(tmp_path)
    assert record.settings["data.buckets"] == "((64, 64),)"
    assert record.settings["data.scale"] == "2.0"
    assert record.changes(prepare(large, record).given) == []
    assert record.export == about


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "Go on with:\n  {} train small.py steps=9 --workdir runs/small"),
        (["--distributed"], "Go on with, in every process:\n  {} train small.py steps=9 "
         "--workdir runs/small --distributed"),
        (
            ["--coordinator", "h:1", "--num-processes", "2", "--process-id", "0"],
            "Go on with, in every process with its own --process-id:\n  {} train small.py steps=9 "
            "--workdir runs/small --coordinator h:1 --num-processes 2 --process-id 0",
        ),
    ],
)  # fmt: skip
def test_the_command_to_go_on_with_is_the_whole_command(options, said):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    args = parser.parse_args(["small.py", "steps=9", *options])
    assert command._next(args) == said.format(program())


def test_show_prints_every_setting(config, capsys):
    assert main(["train", str(config), "steps=none", "epochs=7", "--show"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert "epochs = 7.0" in printed
    assert "model.decoder.num_layers = 1" in printed


def test_a_canvas_that_is_padded_may_have_any_sides(config):
    plain = apply_overrides(load_config(str(config)), ["data.buckets=((64,70),)", "data.val=none"])
    padded = dataclasses.replace(plain, model=plain.model.clone(canvas="padded"))
    assert prepare(padded).loader.batch(0).images.pixels.shape == (4, 64, 70, 3)


def test_objects_beyond_the_slots_are_counted_in_the_record_and_at_the_end(config, tmp_path):
    workdir = tmp_path / "run"
    many = "data.train=synthetic:shapes?size=64&objects=8&count=4&seed=0"
    plain = (many, "data.val=none", "data.max_targets=2", "checkpoint_every=3")
    said = jaxseg("train", config, *plain, "--workdir", workdir)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    counts = [line["dropped_objects"] for line in lines]
    assert 0 < counts[0] < counts[1] < counts[2]
    assert "more objects than the 2 slots" in said
    assert f"{counts[-1]:.0f} times an object was no target" in said


def test_a_process_says_for_whom_it_waits_and_where(config, tmp_path):
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        address = f"localhost:{listening.getsockname()[1]}"
    where = ("--workdir", tmp_path / "run", "--coordinator", address)
    process = start("jaxseg", "train", config, *where, "--num-processes", 3, "--process-id", 0)
    try:
        assert (
            f"process 0 of 3: waiting at {address} for processes 1 to 2"
            in process.stdout.readline()
        )
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("config", "folder"),
    [("detr/bccd", "detr/bccd"), ("mine.py", "mine"), ("/far/away/mine.py", "mine")],
)
def test_a_run_goes_into_runs_by_the_name_of_its_config(config, folder):
    assert default_workdir(config) == Path("runs") / folder


def test_the_evaluation_of_a_run_may_be_stopped_between_its_batches(config):
    def poll():
        raise Stopped("SIGTERM")

    with pytest.raises(Stopped):
        prepare(load_config(str(config))).evaluator()(None, 0, poll)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_may_skip_unreadable_images_and_counts_them(config, tmp_path, workers):
    path = two_images(tmp_path / "data")
    (tmp_path / "data" / "high.png").write_bytes(b"no image")
    overrides = (f"data.train={path}", "data.val=none", "data.batch_size=2")
    overrides += ("data.on_error=skip", f"data.workers={workers}")
    loader = prepare(apply_overrides(load_config(str(config)), overrides)).loader
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        batches = list(loader.iterate(0, 3))
    assert all("high.png cannot be read" in str(warning.message) for warning in said)
    assert [str(warning.message)[-10:] for warning in said] == [f"({n} so far)" for n in (1, 2, 3)]
    assert all(batch.index.tolist() == [0, 0] for batch in batches)
    assert len(loader.skipped) == 3


def test_a_config_file_may_define_dataclasses_whose_annotations_are_text(tmp_path):
    path = tmp_path / "mine.py"
    mine = "from __future__ import annotations\nimport dataclasses\nfrom typing import ClassVar\n"
    mine += "@dataclasses.dataclass\nclass Mine:\n    a: int = 1\n    b: ClassVar[int] = 2\n"
    path.write_text(mine + CONFIG)
    assert load_config(str(path)).steps == 3

import json
import os
import sys
from pathlib import Path

import jax
import pytest
from PIL import Image

from jaxseg import demo_command
from jaxseg.checkpoints import from_pretrained
from jaxseg.cli import main
from jaxseg.program import install_line, program
from jaxseg.train.configs import load_config
from tests.quick import QUICK_FLAGS


def test_the_demo_trains_prints_a_table_and_draws_a_picture(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", QUICK_FLAGS)  # of the commands that it runs
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), "--steps", "2", "--threshold", "0"]) == 0
    said = capfd.readouterr().out
    assert "$ jaxseg train dino/synthetic steps=2" in said
    assert "$ jaxseg eval" in said
    assert "AP50" in said
    assert f"{program()} train detr/finetune" in said
    with Image.open(out / "detections.png") as picture:
        assert min(picture.size) > 3 * 288
    assert from_pretrained(out / "run" / "best").classes.names == ("circle", "square", "triangle")
    lines = (out / "run" / "metrics.jsonl").read_text().splitlines()
    assert any("eval/AP50" in json.loads(line) for line in lines)


@pytest.mark.parametrize(
    ("devices", "train", "evaluate"),
    [(1, [], 40), (8, [], 40), (6, ["data.batch_size=12", "data.eval_batch_size=42"], 42)],
)
def test_its_batches_divide_among_any_number_of_devices(
    tmp_path, monkeypatch, devices, train, evaluate
):
    called = []

    def jaxseg(*words):
        called.append(words)
        (tmp_path / "run" / "best").mkdir(parents=True, exist_ok=True)
        return len(called) - 1  # the second command fails

    monkeypatch.setattr(jax, "device_count", lambda: devices)
    monkeypatch.setattr(demo_command, "_jaxseg", jaxseg)
    assert main(["demo", "--out", str(tmp_path)]) == 1
    assert list(called[0][2:-2]) == train
    assert called[1][-2:] == ("--batch-size", evaluate)


@pytest.mark.parametrize("name", ["dino/synthetic", "detr/synthetic", "detr/synthetic_masks"])
def test_its_configs_divide_over_eight_devices(name):
    data = load_config(name).data
    assert data.batch_size % 8 == data.eval_batch_size % 8 == 0


def test_a_file_in_place_of_the_folder_is_refused(tmp_path, capsys):
    path = tmp_path / "taken"
    path.write_text("")
    assert main(["demo", "--out", str(path)]) == 2
    said = " ".join(capsys.readouterr().err.split())  # wherever it wraps
    assert "is a file: name a folder" in said


@pytest.mark.parametrize("steps", ["0", "-3"])
def test_steps_below_one_are_refused(tmp_path, steps, capsys):
    assert main(["demo", "--out", str(tmp_path / "demo"), f"--steps={steps}"]) == 2
    assert "steps must be" in capsys.readouterr().err


def test_a_threshold_that_is_no_score_is_refused_before_training(tmp_path, capsys):
    assert main(["demo", "--out", str(tmp_path / "demo"), "--threshold", "7"]) == 2
    assert "--threshold must lie in [0, 1]; got 7.0" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


def test_a_folder_below_a_file_is_refused_before_training(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["demo", "--out", str(tmp_path / "file" / "demo")]) == 2
    assert "file, which is a file" in " ".join(capsys.readouterr().err.split())


def test_without_the_extra_the_pip_line_comes_first(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "grain", None)
    assert main(["demo", "--out", str(tmp_path / "demo")]) == 2
    assert install_line("train") in " ".join(capsys.readouterr().err.split())


def test_the_commands_to_go_on_with_can_be_typed_as_they_stand(tmp_path, monkeypatch):
    binaries = tmp_path / ".venv" / "bin"
    binaries.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(binaries / "python"))
    monkeypatch.setenv("PATH", "/usr/bin")
    assert program() == os.path.join(".venv", "bin", "python -m jaxseg")
    script = binaries / "jaxseg"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    assert program() == str(Path(".venv", "bin", "jaxseg"))
    monkeypatch.setenv("PATH", f"{binaries}{os.pathsep}/usr/bin")
    assert program() == "jaxseg"

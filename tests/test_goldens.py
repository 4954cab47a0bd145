"""Every golden case through the one runner; full-size cases beyond one a kind are slow."""

import json
import pathlib
import subprocess
import sys

import pytest

from tests.golden import __main__ as command
from tests.golden.runner import KINDS, judge

HERE = pathlib.Path(__file__).parent / "goldens"
SHARED = pathlib.Path(__file__).parents[1].parent / "shared" / "goldens"


def known(folder):
    paths = sorted(path.parent for path in folder.glob("*/*/case.json"))
    return [p for p in paths if json.loads((p / "case.json").read_text())["kind"] in KINDS]


def name(path):
    return "/".join(path.parts[-2:])


OWN = known(HERE)
OTHERS = [path for path in known(SHARED) if name(path) not in {name(own) for own in OWN}]


def failures(path):
    return {k: v["why"] for k, v in judge(path).items() if not v["ok"]}


@pytest.mark.parametrize("path", OWN, ids=name)
def test_our_answer_is_the_originals(path):
    assert failures(path) == {}


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="no folder shared/ beside the project")
@pytest.mark.parametrize("path", OTHERS, ids=name)
def test_our_answer_is_the_originals_on_the_cases_beside_the_project(path):
    assert failures(path) == {}


def test_the_cases_keep_their_form():
    command_line = [sys.executable, str(HERE / "check.py"), *map(str, OWN)]
    checked = subprocess.run(command_line, capture_output=True, text=True, check=False)
    assert checked.stdout.strip() == f"{len(OWN)} cases, 0 problems", checked.stdout


def edited(tmp_path, change):
    case = next(path for path in OWN if name(path) == "detr/postprocess")
    spec = json.loads((case / "case.json").read_text())
    change(spec)
    (tmp_path / "case.json").write_text(json.dumps(spec))
    (tmp_path / "tensors.npz").write_bytes((case / "tensors.npz").read_bytes())
    return tmp_path


def test_an_unknown_kind_fails_every_output(tmp_path, capsys):
    path = edited(tmp_path, lambda spec: spec.update(kind="detr/unheard"))
    assert command.main([str(path)]) == 1
    assert "no golden kind 'detr/unheard'" in capsys.readouterr().out


def test_a_tensor_that_the_runner_does_not_name_fails_and_says_why(tmp_path):
    def rename(spec):
        spec["outputs"]["scores.0"]["from"] = "scores.of.nothing"

    report = judge(edited(tmp_path, rename))
    assert not report["scores.0"]["ok"]
    assert "not compared" in report["scores.0"]["why"]
    assert report["scores.1"]["ok"]


def test_another_config_than_the_model_has_is_refused(tmp_path):
    report = judge(edited(tmp_path, lambda spec: spec["config"].update(clip_boxes=True)))
    assert not any(row["ok"] for row in report.values())
    assert "clip_boxes" in report["scores.0"]["why"]


def test_the_json_report_holds_every_output(tmp_path):
    out = tmp_path / "report.json"
    path = edited(tmp_path, lambda spec: None)
    assert command.main([str(path), "--json", str(out)]) == 0
    (report,) = json.loads(out.read_text()).values()
    fields = {"max_abs", "max_rel", "noise_rel", "tolerance", "ok", "why"}
    assert all(set(row) == fields for row in report.values())

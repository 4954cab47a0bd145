"""`jaxseg convert` and `jaxseg models`: reports, statuses, nothing half-written."""

import numpy as np
import pytest

from jaxseg import cli
from jaxseg.checkpoints import from_pretrained
from jaxseg.models import build
from jaxseg.params import flatten
from jaxseg_convert_torch import read_state_dict, to_state_dict, write_state_dict
from tests.small_detr import assert_same, drawn, small


def said(capsys):
    return " ".join(capsys.readouterr().err.split())  # wherever the paragraph was wrapped


@pytest.fixture
def official(tmp_path):
    path = tmp_path / "official.pth"
    write_state_dict(to_state_dict("detr", drawn(small())), path)
    return path


def test_an_official_file_goes_there_and_back(official, tmp_path, capsys):
    folder, back = tmp_path / "native", tmp_path / "back.pth"
    assert cli.main(["convert", str(official), str(folder), "--no-probe"]) == 0
    report = capsys.readouterr().out
    assert f"{official}: detr, {len(flatten(drawn(small())))} parameters, 11.2" in report
    assert "assumed  dilation=False (its keys cannot tell" in report
    assert "assumed  num_heads=8" in report
    assert cli.main(["convert", str(folder), str(back), "--to", "official"]) == 0
    assert_same(read_state_dict(back), read_state_dict(official))
    assert_same(flatten(from_pretrained(folder).params), flatten(drawn(small())))


def test_a_report_has_a_line_for_every_problem(official, tmp_path, capsys):
    state = read_state_dict(official)
    state["transformer.mystery.weight"] = np.zeros(3, np.float32)
    del state["input_proj.bias"]
    write_state_dict(state, official)
    assert cli.main(["convert", str(official), str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.splitlines()
    assert "2 problems converting" in error[0]
    assert error[1].split()[:2] == ["missing", "input_proj.bias:"]
    assert error[2].split()[:2] == ["unexpected", "transformer.mystery.weight"]
    assert [path.name for path in tmp_path.iterdir()] == ["official.pth"]


@pytest.mark.parametrize("name", ["nothing.pth", "photo.pth", "empty"])
def test_wrong_input_is_one_paragraph_and_leaves_nothing(tmp_path, name, capsys):
    (tmp_path / "photo.pth").write_bytes(b"\xff\xd8\xff\xe0 not a checkpoint")
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.iterdir())
    assert cli.main(["convert", str(tmp_path / name), str(tmp_path / "out")]) == 2
    assert name in said(capsys)
    assert sorted(tmp_path.iterdir()) == before


def test_the_way_back_needs_a_known_suffix(official, tmp_path, capsys):
    folder = tmp_path / "native"
    assert cli.main(["convert", str(official), str(folder), "--no-probe"]) == 0
    assert cli.main(["convert", str(folder), str(tmp_path / "a.onnx"), "--to", "official"]) == 2
    assert ".safetensors or .pth" in said(capsys)
    assert cli.main(["convert", str(folder), str(tmp_path / "hf"), "--to", "huggingface"]) == 2
    assert "needs class names" in said(capsys)


@pytest.mark.slow
def test_a_full_size_checkpoint_goes_there_and_back_and_verifies(tmp_path, capsys):
    model = build("detr.r50")
    write_state_dict(to_state_dict("detr", drawn(model)), tmp_path / "a.pth")
    assert len(read_state_dict(tmp_path / "a.pth")) == 458
    assert cli.main(["convert", str(tmp_path / "a.pth"), str(tmp_path / "native")]) == 0
    assert "classes  91 labels, 80 named" in capsys.readouterr().out
    assert cli.main(["verify", str(tmp_path / "native")]) == 0
    arguments = [str(tmp_path / "native"), str(tmp_path / "b.pth"), "--to", "official"]
    assert cli.main(["convert", *arguments]) == 0
    assert_same(read_state_dict(tmp_path / "b.pth"), read_state_dict(tmp_path / "a.pth"))


def test_models_lists_what_can_be_built(capsys):
    assert cli.main(["models", "detr.tiny", "detr.r50"]) == 0
    tiny, r50 = capsys.readouterr().out.splitlines()
    assert tiny.split()[0] == "detr.tiny"
    # 41.525 M trainable and frozen kernels, and four arrays of frozen batch norm a layer
    assert r50.split()[:3] == ["detr.r50", "41.63", "M"]
    assert cli.main(["models", "detr.r51"]) == 2

"""`jaxseg convert` and `jaxseg models`: reports, statuses, nothing half-written."""

import json

import numpy as np
import pytest

from jaxseg import cli
from jaxseg.checkpoints import from_pretrained
from jaxseg.convert_command import read_names
from jaxseg.data.classes import Classes
from jaxseg.errors import UserError
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
    written, native = len(read_state_dict(back)), len(flatten(drawn(small())))
    said_back = capsys.readouterr().out
    assert f"{written} tensors of the official form" in said_back
    assert f"({native} parameters here: attention's query, key and value are one" in said_back
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


def test_the_columns_of_the_models_are_straight(capsys):
    names = ["detr.r50", "deformable_detr.r50_refine_two_stage"]
    assert cli.main(["models", *names]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.index(" M  ") == second.index(" M  ")


def test_models_lists_what_can_be_built(capsys):
    assert cli.main(["models", "detr.tiny", "detr.r50"]) == 0
    tiny, r50 = capsys.readouterr().out.splitlines()
    assert tiny.split()[0] == "detr.tiny"
    # 41.525 M trainable and frozen kernels, and four arrays of frozen batch norm a layer
    assert r50.split()[:3] == ["detr.r50", "41.63", "M"]
    assert cli.main(["models", "detr.r51"]) == 2


def test_a_destination_that_is_the_source_is_refused(official, tmp_path, capsys):
    folder = tmp_path / "native"
    assert cli.main(["convert", str(official), str(folder), "--no-probe"]) == 0
    for path, form in ((folder, "native"), (official, "official")):
        before = read_state_dict(official)
        assert cli.main(["convert", str(path), str(path), "--to", form]) == 2
        assert "SRC and DST are both" in said(capsys)
        assert_same(read_state_dict(official), before)


def test_what_an_official_file_does_not_tell_can_be_given(official, tmp_path, capsys):
    options = ["--num-heads", "2", "--classes", "red,white,platelet"]
    out = [str(tmp_path / "hf"), "--to", "huggingface"]
    assert cli.main(["convert", str(official), *out, *options]) == 0
    assert "num_heads" not in capsys.readouterr().out
    loaded = from_pretrained(tmp_path / "hf")
    assert loaded.classes.names == ("red", "white", "platelet")
    assert loaded.model == small()


@pytest.mark.parametrize(
    ("heads", "message"), [("0", "must be a whole number above 0"), ("3", "cannot be built")]
)
def test_heads_that_cannot_be_are_told(official, tmp_path, capsys, heads, message):
    assert cli.main(["convert", str(official), str(tmp_path / "a"), "--num-heads", heads]) == 2
    assert message in said(capsys)


def test_names_come_from_a_list_a_text_or_cocos_categories(tmp_path):
    (tmp_path / "names.txt").write_text("red\nwhite cell\n\n")
    assert read_names(str(tmp_path / "names.txt"), 2) == Classes(("red", "white cell"), (0, 1))
    categories = [{"id": 1, "name": "red"}, {"id": 3, "name": "white"}]
    path = tmp_path / "coco.json"
    path.write_text(json.dumps({"categories": categories}))
    assert read_names(str(path), 2) == Classes(("red", "white"), (1, 3))
    assert read_names(str(path), 4).category_ids == (None, 1, None, 3)
    with pytest.raises(UserError, match="gives 2 or 4 names and the model has 3 labels"):
        read_names(str(path), 3)
    path.write_text("[]")
    with pytest.raises(UserError, match='has no list "categories"'):
        read_names(str(path), 3)


def test_given_names_replace_the_assumed_ones(tmp_path, capsys):
    model = small(num_classes=91)
    write_state_dict(to_state_dict("detr", drawn(model)), tmp_path / "a.safetensors")
    names = [f"c{i}" for i in range(91)]
    (tmp_path / "names.txt").write_text("\n".join(names))
    arguments = [str(tmp_path / "a.safetensors"), str(tmp_path / "out"), "--no-probe"]
    assert cli.main(["convert", *arguments, "--classes", str(tmp_path / "names.txt")]) == 0
    assert "COCO" not in capsys.readouterr().out
    assert list(from_pretrained(tmp_path / "out").classes.names) == names


def test_a_destination_that_cannot_be_made_is_one_paragraph(official, capsys):
    assert cli.main(["convert", str(official), "/proc/x/y", "--no-probe"]) == 2
    assert "cannot write /proc/x/y" in said(capsys)

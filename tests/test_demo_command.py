import json

import pytest
from PIL import Image

from jaxseg.checkpoints import from_pretrained
from jaxseg.cli import main


def test_the_demo_trains_prints_a_table_and_draws_a_picture(tmp_path, capfd):
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), "--steps", "2", "--threshold", "0"]) == 0
    said = capfd.readouterr().out
    assert "$ jaxseg train detr/synthetic steps=2" in said
    assert "$ jaxseg eval" in said
    assert "AP50" in said
    assert "jaxseg train detr/finetune" in said
    with Image.open(out / "detections.png") as picture:
        assert min(picture.size) > 3 * 288
    assert from_pretrained(out / "run" / "best").classes.names == ("circle", "square", "triangle")
    lines = (out / "run" / "metrics.jsonl").read_text().splitlines()
    assert any("eval/AP50" in json.loads(line) for line in lines)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path, capsys):
    path = tmp_path / "taken"
    path.write_text("")
    assert main(["demo", "--out", str(path)]) == 2
    said = " ".join(capsys.readouterr().err.split())  # wherever it wraps
    assert "is a file: name a folder" in said


@pytest.mark.parametrize("steps", ["0", "-3"])
def test_steps_below_one_are_refused(tmp_path, steps, capsys):
    assert main(["demo", "--out", str(tmp_path / "demo"), f"--steps={steps}"]) == 2
    assert "steps must be above 0" in capsys.readouterr().err

"""`jaxseg eval`: the table, the files, and mistakes told before any work."""

import json
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from jaxseg import cli
from jaxseg.errors import UserError
from jaxseg.eval.coco_ap import METRICS
from jaxseg.eval.command import _batch_size
from jaxseg.program import install_line
from tests.predict.tiny import CLASSES, save_tiny
from tests.train.processes import start

RNG = np.random.default_rng(0)
# Sparse, out of order, and named as the weights name them.
IDS = {"star": 3, "circle": 11, "cross": 12, "ring": 40, "square": 90}


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("weights") / "tiny")


@pytest.fixture
def data(tmp_path) -> Path:
    """Three images; large boxes, so that random weights sometimes hit one."""
    (tmp_path / "images").mkdir()
    images, annotations = [], []
    for number in (4, 9, 17):
        Image.fromarray(RNG.integers(0, 256, (60, 80, 3), np.uint8)).save(
            tmp_path / "images" / f"{number}.png"
        )
        images.append({"id": number, "file_name": f"{number}.png", "height": 60, "width": 80})
        annotations += [
            {"id": len(annotations) + i + 1, "image_id": number, "category_id": category,
             "bbox": [10, 5, 60, 50], "area": 3000, "iscrowd": 0}
            for i, category in enumerate(IDS.values())
        ]  # fmt: skip
    truth = {
        "info": {},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for name, i in IDS.items()],
    }
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(truth))
    return path


@pytest.fixture
def evaluate(weights, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    return lambda *args: cli.main(["eval", str(weights), *map(str, args)])


def test_the_table_is_printed_and_the_files_agree_with_pycocotools(
    evaluate, data, tmp_path, capsys
):
    metrics, results = tmp_path / "out" / "metrics.json", tmp_path / "out" / "results.json"
    assert evaluate(data, "--json", metrics, "--results", results, "--batch-size", 2) == 0
    printed = capsys.readouterr().out
    assert "AP_small" in printed
    assert "3 images" in printed
    for name in CLASSES.names:
        assert name in printed
    answer = json.loads(metrics.read_text())
    assert answer["images"] == 3
    oracle_truth = COCO(str(data))
    oracle = COCOeval(oracle_truth, oracle_truth.loadRes(str(results)), "bbox")
    oracle.evaluate()
    oracle.accumulate()
    oracle.summarize()
    for name, expected in zip(METRICS, oracle.stats, strict=True):
        assert answer["metrics"][name] == (None if expected < 0 else pytest.approx(expected)), name


def test_a_limit_and_padded_canvases_are_said_aloud(evaluate, data, capsys):
    assert evaluate(data, "--limit", 1, "--canvas", "padded") == 0
    printed = capsys.readouterr().out
    assert "1 image," in printed
    assert "padded" in printed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"categories": [{"id": 3, "name": "unicorn"}]}, "do not know 1 of the data set's"),
        ({"images": []}, "is empty"),
    ],
)
def test_a_data_set_that_does_not_fit_is_refused(change, message, evaluate, data, capsys, tmp_path):
    truth = json.loads(data.read_text()) | change
    known = {image["id"] for image in truth["images"]}
    truth["annotations"] = [
        a for a in truth["annotations"] if a["category_id"] == 3 and a["image_id"] in known
    ]
    data.write_text(json.dumps(truth))
    assert evaluate(data, "--json", tmp_path / "metrics.json") == 2
    captured = capsys.readouterr()
    assert message in captured.err.replace("\n", " ")
    assert not (tmp_path / "metrics.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-size", "0"], "--batch-size must be 1 or more; got 0"),
        (["--limit", "-3"], "--limit must be 1 or more; got -3"),
        (["--workers", "-1"], "--workers must be 0 or more; got -1"),
        (["--json", "{tmp}"], "is a folder"),
        (["--json", "{tmp}/instances.json/x.json"], "instances.json, which is a file"),
        (["--json", "{tmp}/a.json", "--results", "{tmp}/a.json"], "both name"),
        (["--num-processes", "2"], "need all of --coordinator"),
        (
            ["--coordinator", "localhost:1", "--num-processes", "2", "--process-id", "2"],
            "--process-id must be 0 to 1 for --num-processes 2; got 2",
        ),
    ],
)
def test_wrong_arguments_are_told_at_once(arguments, message, evaluate, data, tmp_path, capsys):
    assert evaluate(data, *(word.format(tmp=tmp_path) for word in arguments)) == 2
    assert message in capsys.readouterr().err.replace("\n", " ")


def test_a_missing_image_is_named_and_nothing_is_written(evaluate, data, tmp_path, capsys):
    (tmp_path / "images" / "9.png").unlink()
    assert evaluate(data, "--json", tmp_path / "metrics.json") == 2
    assert "9.png" in capsys.readouterr().err
    assert not (tmp_path / "metrics.json").exists()


def test_without_the_extra_the_pip_line_comes_first(evaluate, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    assert evaluate(tmp_path / "no such data") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"needs faster-coco-eval: {install_line('train')}" in said


def test_images_without_a_size_are_evaluated(evaluate, data, tmp_path):
    assert evaluate(data, "--json", tmp_path / "with.json") == 0
    truth = json.loads(data.read_text())
    truth["images"] = [{"id": i["id"], "file_name": i["file_name"]} for i in truth["images"]]
    data.write_text(json.dumps(truth))
    assert evaluate(data, "--json", tmp_path / "without.json") == 0
    one, other = (json.loads((tmp_path / f"{name}.json").read_text()) for name in
                  ("with", "without"))  # fmt: skip
    assert one["metrics"] == other["metrics"]


def test_weights_that_are_not_finite_are_one_paragraph(data, tmp_path, capsys):
    broken = save_tiny(tmp_path / "broken", damaged="bbox_embed")
    metrics = tmp_path / "metrics.json"
    assert cli.main(["eval", str(broken), str(data), "--json", str(metrics)]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"jaxseg: {broken}: 12 of 12 detections are not finite" in said
    assert not metrics.exists()


def test_the_files_are_written_when_nobody_reads(evaluate, data, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise BrokenPipeError

    monkeypatch.setattr("jaxseg.eval.table.render", broken)
    monkeypatch.setattr(cli, "_discard", lambda stream: None)
    assert evaluate(data, "--json", tmp_path / "m.json", "--results", tmp_path / "r.json") == 141
    assert (tmp_path / "m.json").exists()
    assert (tmp_path / "r.json").exists()


def test_model_and_revision_reach_the_weights(evaluate, data, monkeypatch):
    asked = {}

    def from_pretrained(name, **options):
        asked.update(options)
        raise UserError("enough")

    monkeypatch.setattr("jaxseg.checkpoints.from_pretrained", from_pretrained)
    assert evaluate(data, "--model", "detr.r50_dc5", "--revision", "v2") == 2
    assert asked == {"model": "detr.r50_dc5", "revision": "v2"}


def test_a_batch_that_does_not_divide_over_the_devices_is_refused():
    assert _batch_size(None, 8) == 8
    assert _batch_size(16, 8) == 16
    with pytest.raises(UserError, match="multiple of the 8 devices; got 12: leave it out, or make"):
        _batch_size(12, 8)


def test_processes_that_nobody_introduces_are_one_paragraph(weights, data):
    said = start("jaxseg", "eval", weights, data, "--distributed").communicate(timeout=240)[0]
    assert "the processes did not find each other" in said
    assert "Traceback" not in said


def same_records(path: Path, other: Path) -> None:
    ours, theirs = (json.loads(p.read_text()) for p in (path, other))
    assert len(ours) == len(theirs) > 0
    for a, b in zip(ours, theirs, strict=True):
        assert (a["image_id"], a["category_id"]) == (b["image_id"], b["category_id"])
        np.testing.assert_allclose([*a["bbox"], a["score"]], [*b["bbox"], b["score"]], atol=5e-3)


def test_devices_and_processes_find_what_one_device_finds(evaluate, weights, data, tmp_path):
    alone, eight, two = (tmp_path / f"{name}.json" for name in ("alone", "eight", "two"))
    assert evaluate(data, "--results", alone) == 0
    process = start("jaxseg", "eval", weights, data, "--results", eight, devices=8)
    assert "3 images" in process.communicate(timeout=240)[0]
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        coordinator = f"localhost:{probe.getsockname()[1]}"
    shared = ("--coordinator", coordinator, "--num-processes", 2, "--results", two)
    pair = [start("jaxseg", "eval", weights, data, *shared, "--process-id", i) for i in (0, 1)]
    said = [process.communicate(timeout=240)[0] for process in pair]
    assert [process.returncode for process in pair] == [0, 0], said
    assert ["3 images" in words for words in said] == [True, False]
    same_records(alone, eight)
    same_records(alone, two)

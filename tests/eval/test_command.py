"""`jaxseg eval`: the table, the files, and mistakes told before any work."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from jaxseg import cli
from jaxseg.eval.coco_ap import METRICS
from tests.predict.tiny import CLASSES, save_tiny

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
        (["--json", "{tmp}"], "is a folder"),
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

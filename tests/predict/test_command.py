"""`jaxseg predict`: pictures and JSON, and honest about what it could not read."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxseg import cli
from jaxseg.errors import UserError
from jaxseg.predict import Detector
from jaxseg.predict.command import find_images, name_outputs
from tests.predict.tiny import CLASSES, save_tiny

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("weights") / "tiny")


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, size in {"1.png": (48, 64), "b.jpg": (60, 90)}.items():
        Image.fromarray(RNG.integers(0, 256, (*size, 3), np.uint8)).save(folder / name)
    return folder


@pytest.fixture
def predict(weights, tmp_path, monkeypatch):
    monkeypatch.setenv("JAXSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))

    def call(*args) -> int:
        words = ["predict", *map(str, args), "--weights", str(weights), "--threshold", "0"]
        return cli.main([*words, "--out", str(tmp_path / "out")])

    return call


def test_a_folder_becomes_pictures_and_json(predict, photos, weights, tmp_path, capsys):
    assert predict(photos, "--coco", tmp_path / "results" / "coco.json") == 0
    answer = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [(a["file"], a["picture"]) for a in answer] == [
        (str(photos / "1.png"), "1.png"),
        (str(photos / "b.jpg"), "b.jpg"),
    ]
    expected = Detector.from_pretrained(weights)(photos / "b.jpg", 0.0)
    assert answer[1] | expected.to_dict() == answer[1]
    assert (answer[1]["width"], answer[1]["height"]) == (90, 60)
    for name, size in {"1.png": (64, 48), "b.jpg": (90, 60)}.items():
        with Image.open(tmp_path / "out" / name) as picture:
            assert picture.size == size
    records = json.loads((tmp_path / "results" / "coco.json").read_text())
    assert {r["image_id"] for r in records} == {1, "b.jpg"}
    assert {r["category_id"] for r in records} <= set(CLASSES.category_ids)
    assert "2 images, 24 objects" in capsys.readouterr().out
    assert not [p for p in (tmp_path / "out").iterdir() if "partial" in p.name]


def test_an_unreadable_image_is_named_and_the_others_are_done(predict, photos, tmp_path, capsys):
    (photos / "a_broken.jpg").write_bytes((photos / "b.jpg").read_bytes()[:300])
    assert predict(photos) == 1
    captured = capsys.readouterr()
    assert str(photos / "a_broken.jpg") in captured.err
    assert "1 skipped" in captured.out
    answer = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [Path(a["file"]).name for a in answer] == ["1.png", "b.jpg"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.jpg"], "no image at missing.jpg"),
        (["*.nothing"], "no image at *.nothing"),
        (["{tmp}/empty"], "holds no images"),
        (["{photos}", "--batch-size", "0"], "--batch-size must be 1 or more; got 0"),
        (["{photos}", "--threshold", "2"], "--threshold must lie in [0, 1]; got 2.0"),
        (["{photos}", "--weights", "{tmp}/none"], "/none does not exist"),
        (["{photos}", "--out", "{photos}/b.jpg"], "is a file: name a folder"),
        (["{photos}", "--out", "{photos}"], "would overwrite an image"),
    ],
)
def test_mistakes_are_told_before_any_work(
    arguments, message, weights, photos, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "empty").mkdir()
    words = [word.format(tmp=tmp_path, photos=photos) for word in arguments]
    defaults = ["--weights", str(weights), "--out", str(tmp_path / "out")]
    assert cli.main(["predict", *defaults, *words]) == 2
    captured = capsys.readouterr()
    assert message in captured.err.replace("\n", " ")
    assert captured.out == ""
    assert not (tmp_path / "out").exists()


def test_images_are_found_once_in_order(photos, monkeypatch):
    (photos / "notes.txt").write_text("no image")
    (photos / "deep").mkdir()
    Image.new("RGB", (3, 3)).save(photos / "deep" / "c.PNG")
    a, b, c = photos / "1.png", photos / "b.jpg", photos / "deep" / "c.PNG"
    assert find_images([str(photos)]) == [a, b]
    assert find_images([str(b), str(photos), str(a)]) == [b, a]
    assert find_images([str(photos / "**" / "*.[pP][nN][gG]")]) == [a, c]
    with pytest.raises(UserError, match=r"none\.jpg"):
        find_images([str(a), str(photos / "none.jpg")])


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(tmp_path):
    odd = tmp_path / "a[1].png"
    Image.new("RGB", (3, 3)).save(odd)
    assert find_images([str(odd)]) == [odd]


def test_pictures_of_equal_names_are_numbered():
    paths = [Path("x/a.jpg"), Path("y/a.jpeg"), Path("z/a.png"), Path("y/A.tif")]
    names = [output.name for output in name_outputs(paths, Path("out")).values()]
    assert names == ["a.jpg", "a_2.jpg", "a.png", "A_3.jpg"]

"""`jaxseg predict`: pictures and JSON, and honest about what it could not read."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxseg import cli
from jaxseg.errors import UserError
from jaxseg.predict import Detector
from jaxseg.predict.inputs import find_images
from jaxseg.predict.outputs import name_outputs
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
        words = ["predict", "--threshold", "0", *map(str, args), "--weights", str(weights)]
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


def test_a_threshold_that_nothing_reaches_is_told(predict, photos, tmp_path, capsys):
    assert predict(photos / "b.jpg", "--threshold", "1") == 0
    said = capsys.readouterr().out
    assert "1 image, 0 objects: none" in said
    assert "nothing scored 1 or more: a lower --threshold shows the rest" in said


def test_an_unreadable_image_is_named_and_the_others_are_done(predict, photos, tmp_path, capsys):
    (photos / "a_broken.jpg").write_bytes((photos / "b.jpg").read_bytes()[:300])
    assert predict(photos) == 1
    captured = capsys.readouterr()
    assert str(photos / "a_broken.jpg") in captured.err
    assert "1 skipped" in captured.out
    answer = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [Path(a["file"]).name for a in answer] == ["1.png", "b.jpg"]


def test_no_picture_is_promised_where_no_image_could_be_read(predict, photos, capsys):
    (photos / "a_broken.jpg").write_bytes((photos / "b.jpg").read_bytes()[:300])
    assert predict(photos / "a_broken.jpg") == 1
    said = capsys.readouterr().out
    assert "no picture; predictions.json is in" in said
    assert "pictures and" not in said


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
        (["{photos}", "--out", "{photos}/b.jpg/sub"], "b.jpg, which is a file"),
        (["{photos}", "--coco", "{tmp}"], "is a folder: name a file"),
        (["{photos}", "--coco", "{photos}/b.jpg/x.json"], "b.jpg, which is a file"),
        (["{photos}", "--coco", "{photos}/b.jpg"], "is one of the images"),
        (["{photos}", "--coco", "{tmp}/out/predictions.json"], "what --out writes already"),
        (["{photos}", "--coco", "{tmp}/out/b.jpg"], "what --out writes already"),
        (["{photos}", "--coco", "{tmp}/out"], "what --out writes already"),
        (["{photos}", "--out", "{tmp}/" + "o" * 300], "File name too long"),
        (["x" * 300 + ".jpg"], "check the path"),
        ([""], "an image cannot be called ''"),
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


def test_photos_that_were_not_named_are_never_overwritten(predict, photos, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "b.jpg").write_bytes(b"somebody's photo")
    assert predict(photos / "b.jpg") == 2
    assert "no earlier run wrote" in capsys.readouterr().err.replace("\n", " ")
    assert (out / "b.jpg").read_bytes() == b"somebody's photo"
    assert not (out / "predictions.json").exists()


@pytest.mark.parametrize("content", ["{}", '{"a": 1}', "[1]", "not JSON", '[{"picture": "b.jpg"}]'])
def test_a_listing_that_no_run_wrote_is_kept(predict, photos, tmp_path, content, capsys):
    listing = tmp_path / "out" / "predictions.json"
    listing.parent.mkdir()
    listing.write_text(content)
    assert predict(photos / "b.jpg") == 2
    assert "no earlier run wrote it" in capsys.readouterr().err.replace("\n", " ")
    assert listing.read_text() == content


def test_a_second_run_takes_the_place_of_the_first(predict, photos, tmp_path):
    out = tmp_path / "out"
    assert predict(photos) == 0
    (out / "notes.txt").write_text("mine")
    assert predict(photos / "b.jpg") == 0
    assert sorted(p.name for p in out.iterdir()) == ["b.jpg", "notes.txt", "predictions.json"]


def test_an_interrupted_run_lists_its_pictures(predict, photos, tmp_path, monkeypatch):
    whole = Detector.prepare

    def prepare(self, image):
        if Path(image).name == "b.jpg":
            raise KeyboardInterrupt
        return whole(self, image)

    for number in range(4):
        Image.new("RGB", (40, 40)).save(photos / f"0{number}.png")
    with monkeypatch.context() as patched:
        patched.setattr(Detector, "prepare", prepare)
        assert predict(photos) == 130
    answer = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert {a["picture"] for a in answer} == {p.name for p in (tmp_path / "out").glob("*g")}
    assert len(answer) == 4
    assert predict(photos) == 0


def test_a_picture_that_cannot_be_saved_is_skipped(predict, photos, tmp_path, capsys):
    (tmp_path / "out" / "1.png").mkdir(parents=True)
    (tmp_path / "out" / "predictions.json").write_text('[{"file": "1", "picture": "1.png"}]')
    assert predict(photos) == 1
    captured = capsys.readouterr()
    assert "cannot save what was found" in captured.err
    assert "1 image, 12 objects" in captured.out
    answer = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [a["picture"] for a in answer] == ["b.jpg"]


def test_what_is_too_long_for_a_jpeg_becomes_a_png(predict, tmp_path):
    Image.new("RGB", (70_000, 1)).save(tmp_path / "strip.tif")
    assert predict(tmp_path / "strip.tif") == 0
    with Image.open(tmp_path / "out" / "strip.png") as picture:
        assert picture.size == (70_000, 1)


@pytest.mark.parametrize("layer", ["class_embed", "bbox_embed"])
def test_weights_that_are_not_finite_are_one_paragraph(
    layer, weights, photos, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    broken = save_tiny(tmp_path / "broken", damaged=layer)
    out = tmp_path / "out"
    assert cli.main(["predict", str(photos), "--weights", str(broken), "--out", str(out)]) == 2
    captured = capsys.readouterr()
    assert "12 of 12 detections are not finite" in captured.err.replace("\n", " ")
    assert captured.err.startswith(f"jaxseg: {broken}")
    assert not out.exists()


def test_images_that_coco_could_not_tell_apart_are_refused(predict, tmp_path, capsys):
    for name in ("d1/1.jpg", "d2/01.png"):
        (tmp_path / name).parent.mkdir()
        Image.new("RGB", (9, 9)).save(tmp_path / name)
    assert predict(tmp_path / "d?" / "*", "--coco", tmp_path / "coco.json") == 2
    assert "one image_id, 1" in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "coco.json").exists()


def test_images_may_follow_options(predict, photos, tmp_path):
    assert predict(photos / "1.png", "--batch-size", 2, photos / "b.jpg") == 0
    assert len(json.loads((tmp_path / "out" / "predictions.json").read_text())) == 2


def test_model_and_revision_reach_the_weights(predict, photos, monkeypatch):
    asked = {}

    def from_pretrained(name, **options):
        asked.update(options)
        raise UserError("enough")

    monkeypatch.setattr("jaxseg.checkpoints.from_pretrained", from_pretrained)
    assert predict(photos, "--model", "detr.r50_dc5", "--revision", "v2") == 2
    assert (asked["model"], asked["revision"]) == ("detr.r50_dc5", "v2")


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


def test_one_file_in_two_spellings_is_one_image(photos, monkeypatch):
    monkeypatch.chdir(photos)
    assert find_images(["b.jpg", str(photos / "b.jpg"), "../photos/b.jpg"]) == [Path("b.jpg")]


def test_a_folder_that_is_called_like_an_image_is_none(photos):
    (photos / "x.jpg").mkdir()
    assert find_images([str(photos)]) == [photos / "1.png", photos / "b.jpg"]


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(tmp_path):
    odd = tmp_path / "a[1].png"
    Image.new("RGB", (3, 3)).save(odd)
    assert find_images([str(odd)]) == [odd]


def test_pictures_of_equal_names_are_numbered():
    paths = [Path("x/a.jpg"), Path("y/a.jpeg"), Path("z/a.png"), Path("y/A.tif")]
    names = [output.name for output in name_outputs(paths, Path("out")).values()]
    assert names == ["a.jpg", "a_2.jpg", "a.png", "A_3.jpg"]

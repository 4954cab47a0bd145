"""`jaxseg masks`, and `jaxseg predict` with prompts: what they write, resume and refuse."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxseg.cli import main
from jaxseg.data.segmentation import decode_segmentation
from jaxseg.predict.masks_command import sa1b_form
from tests.predict.small_sam import save_small
from tests.predict.tiny import save_tiny

EVERYTHING = [
    "--set", "points_per_side=2", "pred_iou_thresh=-1", "stability_score_thresh=0",
    "box_nms_thresh=0.9",
]  # fmt: skip


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_small(tmp_path_factory.mktemp("weights") / "sam")


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "images"
    folder.mkdir()
    for name, size in (("7.png", (40, 60)), ("b.jpg", (50, 30))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(folder / name)
    return folder


def segment(weights, images, out, *options):
    return main(["masks", str(images), "--weights", str(weights), "--out", str(out), *options])


def test_masks_are_written_in_sa1bs_form_with_pictures(weights, images, tmp_path, capsys):
    out = tmp_path / "out"
    assert segment(weights, images, out, *EVERYTHING) == 0
    assert "2 images segmented" in capsys.readouterr().out
    names = {path.name for path in out.iterdir()}
    assert names == {"7.json", "7.png", "b.json", "b.png", "settings.json"}
    content = json.loads((out / "7.json").read_text())
    assert content["image"] == {"image_id": 7, "width": 60, "height": 40, "file_name": "7.png"}
    assert content["annotations"]
    for i, record in enumerate(content["annotations"]):
        assert set(record) == {
            *("id", "segmentation", "area", "bbox", "predicted_iou", "stability_score"),
            *("crop_box", "point_coords"),
        }
        assert record["id"] == i
        mask = decode_segmentation(record["segmentation"], 40, 60)
        assert mask.sum() == record["area"]
    with Image.open(out / "7.png") as picture:
        assert picture.size == (60, 40)


def test_the_same_command_goes_on_where_it_stopped(weights, images, tmp_path, capsys):
    out = tmp_path / "out"
    assert segment(weights, images / "7.png", out, "--no-pictures", *EVERYTHING) == 0
    first = (out / "7.json").stat().st_mtime_ns
    assert segment(weights, images, out, "--no-pictures", *EVERYTHING) == 0
    assert "1 of 2 images are done already" in capsys.readouterr().err
    assert (out / "7.json").stat().st_mtime_ns == first
    assert (out / "b.json").exists()
    assert segment(weights, images, out, "--set", "points_per_side=3") == 2
    assert "were made with other weights or settings" in " ".join(capsys.readouterr().err.split())
    others = save_small(tmp_path / "others")
    assert segment(others, images, out, "--no-pictures", *EVERYTHING) == 2
    assert "were made with other weights or settings" in " ".join(capsys.readouterr().err.split())


def test_an_image_that_cannot_be_read_is_skipped(weights, images, tmp_path, capsys):
    (images / "broken.png").write_bytes(b"no picture")
    out = tmp_path / "out"
    assert segment(weights, images, out, "--no-pictures", *EVERYTHING) == 1
    said = capsys.readouterr()
    assert "skipped: " in said.err
    assert "1 skipped: " in said.out
    assert not (out / "broken.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--preset", "best"], "no preset 'best'; there are release, sa1b"),
        (["--set", "points_per_side"], "a setting is NAME=VALUE"),
        (["--set", "points_per_side=many"], "a setting is NAME=VALUE with a number"),
        (["--set", "points=3"], "no setting 'points'"),
        (
            ["--set", "points_per_side=0"],
            "must be a whole number, 1 to 1000; got 0",
        ),
        (["--set", 'points_per_side="a"'], "must be a whole number, 1 to 1000; got 'a'"),
        (["--set", "crop_n_layers=40"], "crop_n_layers must be a whole number, 0 to 8; got 40"),
        (["--set", "pred_iou_thresh=null"], "pred_iou_thresh must be a number; got None"),
        (["--set", 'output_mode="binary_mask"'], "these files hold coco_rle"),
        (["--set", 'preset="sa1b"'], "no setting 'preset'"),
    ],
)
def test_settings_are_refused_before_any_work(weights, images, tmp_path, capsys, options, message):
    assert segment(weights, images, tmp_path / "out", *options) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_somebody_elses_file_is_never_overwritten(weights, images, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "7.json").write_text("mine")
    assert segment(weights, images, out, *EVERYTHING) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "7.json would be overwritten, and no run wrote it" in said
    assert (out / "7.json").read_text() == "mine"


def test_an_image_or_anothers_picture_is_never_overwritten(weights, images, tmp_path, capsys):
    before = (images / "7.png").read_bytes()
    assert segment(weights, images / "7.png", images, *EVERYTHING) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"--out {images} holds the image" in said
    assert (images / "7.png").read_bytes() == before
    out = tmp_path / "out"
    out.mkdir()
    (out / "b.png").write_bytes(b"mine")
    assert segment(weights, images, out, *EVERYTHING) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "b.png would overwrite a file that no run wrote" in said
    assert (out / "b.png").read_bytes() == b"mine"


def test_a_picture_that_is_missing_is_made_again(weights, images, tmp_path, capsys):
    out = tmp_path / "out"
    assert segment(weights, images, out, *EVERYTHING) == 0
    (out / "b.png").unlink()
    assert segment(weights, images, out, *EVERYTHING) == 0
    assert "1 of 2 images are done already" in capsys.readouterr().err
    assert (out / "b.png").exists()


def test_a_stability_that_is_no_number_is_null():
    record = {"stability_score": float("nan"), "area": 0}
    content = sa1b_form(Path("1.png"), (4, 4), [record])
    assert json.loads(json.dumps(content, allow_nan=False))["annotations"][0] == {
        "id": 0, "stability_score": None, "area": 0,
    }  # fmt: skip


def predict(weights, images, out, *options):
    return main(["predict", str(images), "--weights", str(weights), "--out", str(out), *options])


def test_prompts_are_answered_with_masks_and_pictures(weights, images, tmp_path):
    out = tmp_path / "out"
    boxes = ["1,2,20,25", "10,10,29,39"]
    assert predict(weights, images, out, "--boxes", *boxes) == 0
    records = json.loads((out / "predictions.json").read_text())
    assert [record["picture"] for record in records] == ["7.png", "b.jpg"]
    for record in records:
        assert {found["name"] for found in record["objects"]} == {"object 1", "object 2"}
        scores = [found["score"] for found in record["objects"]]
        assert scores == sorted(scores, reverse=True)
        mask = decode_segmentation(
            record["objects"][0]["segmentation"], record["height"], record["width"]
        )
        rows, columns = np.nonzero(mask)
        box = (
            [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            if mask.any()
            else 4 * [0]
        )
        assert record["objects"][0]["box"] == box


def test_images_at_once_are_answered_as_alone(weights, images, tmp_path):
    for count in ("1", "3"):
        assert predict(
            weights, images, tmp_path / count, "--points", "5,6", "9,9,0", "--batch-size", count
        ) == 0  # fmt: skip
    one, many = (json.loads((tmp_path / n / "predictions.json").read_text()) for n in ("1", "3"))
    for a, b in zip(one, many, strict=True):
        assert a["objects"][0]["score"] == pytest.approx(b["objects"][0]["score"], abs=1e-4)


def test_a_mask_goes_with_points(weights, images, tmp_path):
    np.save(tmp_path / "low.npy", np.random.default_rng(0).normal(size=(32, 32)))
    options = ["--points", "5,6", "--masks", str(tmp_path / "low.npy")]
    assert predict(weights, images, tmp_path / "out", *options) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "needs --points, --boxes or --masks here"),
        (["--points", "5"], "--points takes X,Y or X,Y,0 in pixels; got '5'"),
        (["--boxes", "a,b,c,d"], "--boxes takes X0,Y0,X1,Y1 in pixels; got 'a,b,c,d'"),
        (["--points", "5,5", "--boxes", "1,1,2,2", "3,3,4,4"], "points are of one object"),
        (["--masks", "none.npy"], "cannot read none.npy"),
        (["--masks", "text.npy"], "cannot read text.npy: it is no array that numpy.save wrote"),
        (["--masks", "empty.npy"], "cannot read empty.npy: it is no array that numpy.save wrote"),
        (["--masks", "three.npy"], "must be (32, 32), the low-resolution logits of an earlier"),
        (["--masks", "three.npy"], "got (3, 32, 32): choose one of them"),
        (["--boxes", "9,9,1,1"], "first corner must be above and left of its second"),
        (["--points", "5,5,2"], "labels of points are 1 (foreground)"),
        (["--points", "5,5", "--panoptic", "a.json"], "masks are of no class and may overlap"),
    ],
)
def test_prompts_that_cannot_be_meant_are_refused(
    weights, images, tmp_path, capsys, monkeypatch, options, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.npy").write_text("logits")
    (tmp_path / "empty.npy").touch()
    np.save(tmp_path / "three.npy", np.zeros((3, 32, 32)))
    assert predict(weights, images, tmp_path / "out", *options) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_an_image_that_a_prompt_lies_outside_of_is_skipped(weights, images, tmp_path, capsys):
    assert predict(weights, images, tmp_path / "out", "--points", "45,10") == 1
    said = " ".join(capsys.readouterr().err.split())
    assert f"{images / 'b.jpg'}: points must lie on the image, x in 0..30" in said


def test_a_detector_takes_no_prompts_and_segments_nothing(images, tmp_path, capsys):
    detector = save_tiny(tmp_path / "detr")
    assert predict(detector, images, tmp_path / "out", "--points", "5,5") == 2
    assert "prompts need weights of Segment Anything" in capsys.readouterr().err
    assert segment(detector, images, tmp_path / "masks") == 2
    assert "need a Segment Anything model; got a Detr" in " ".join(capsys.readouterr().err.split())


def test_segment_anything_is_no_detector(weights, tmp_path, capsys):
    data = tmp_path / "data.json"
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    image = {"id": 1, "file_name": "a.png", "width": 9, "height": 9}
    category = {"id": 1, "name": "cell"}
    data.write_text(json.dumps({"images": [image], "annotations": [], "categories": [category]}))
    assert main(["eval", str(weights), str(data)]) == 2
    assert "finds no objects by itself" in " ".join(capsys.readouterr().err.split())

"""Predictors that draw masks and divide scenes, and the pictures of both."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxseg import cli
from jaxseg.data import open_dataset
from jaxseg.data.classes import Classes
from jaxseg.data.panoptic import ids_of_colours
from jaxseg.data.segmentation import decode_segmentation
from jaxseg.errors import UserError
from jaxseg.predict import Detector, Prediction, Scene, draw, draw_scene
from jaxseg.predict.draw_scene import scene_colors
from jaxseg.predict.masks import ImageMasks, QueryMasks
from jaxseg.predict.panoptic import Segment
from jaxseg.predict.panoptic_form import PanopticFiles
from jaxseg.predict.result import NotFinite
from jaxseg.predict.tags import class_color
from tests.data.panoptic_files import CATEGORIES, stripes
from tests.predict import supervision_stub
from tests.predict.tiny import CONFIG, save_tiny, tiny_detr
from tests.stripe_finder import IMAGE, PARAMS, StripeFinder

CLASSES = Classes(("red", "green", "blue"), (3, 5, 120), {2})


@pytest.fixture(scope="module")
def detector():
    return Detector(StripeFinder(), PARAMS, CLASSES, IMAGE, batch_size=2)


def striped(height, *stripes):
    """Stripes of (channel or None, width)."""
    row = np.zeros((sum(width for _, width in stripes), 3), np.uint8)
    left = 0
    for channel, width in stripes:
        if channel is not None:
            row[left : left + width, channel] = 255
        left += width
    return np.repeat(row[None], height, 0)


SMALL = striped(64, (0, 16), (2, 24), (1, 24))
LARGE = striped(200, (1, 100), (None, 60), (0, 140))


def test_masks_are_in_the_images_own_pixels(detector):
    small, large = detector([SMALL, LARGE])
    assert small.names == ("red", "green", "blue")
    assert [mask.shape for mask in large.masks] == [(200, 300)] * 2
    for mask, channel in zip(small.masks, (0, 1, 2), strict=True):
        np.testing.assert_array_equal(mask, SMALL[..., channel] > 0)
    # Shrunk to a third and drawn at a quarter of that: the edge is off by at most that much.
    assert np.abs(large.masks[0].sum(1) - 140).max() <= 6
    assert large.masks[0, :, 170:].all()


def test_only_masks_of_what_is_shown_are_drawn(detector):
    assert detector(striped(64, (0, 64))).masks.shape == (1, 64, 64)
    assert detector(SMALL, threshold=1.0).masks.shape == (0, 64, 64)


def test_masks_go_to_json_and_to_supervision(detector, monkeypatch):
    found = detector(SMALL)
    record = json.loads(found.to_json())["objects"][1]
    mask = decode_segmentation(record["segmentation"], 64, 64)
    np.testing.assert_array_equal(mask, SMALL[..., 1] > 0)
    monkeypatch.setitem(__import__("sys").modules, "supervision", supervision_stub)
    np.testing.assert_array_equal(found.to_supervision().mask, found.masks)
    boxes_alone = Prediction(found.boxes, found.scores, found.labels, found.names, found.size)
    assert "segmentation" not in boxes_alone.to_dict()["objects"][0]


def test_a_scene_gives_every_pixel_to_a_segment(detector):
    scene, other = detector.panoptic([SMALL, LARGE])
    assert scene.names == ("red", "green", "blue")
    assert [s.id for s in scene.segments] == [1, 2, 3]
    assert [s.thing for s in scene.segments] == [True, True, False]
    np.testing.assert_array_equal(scene.ids[0], [1] * 16 + [3] * 24 + [2] * 24)
    assert [s.area for s in scene.segments] == [1024, 1536, 1536]
    assert set(np.unique(other.ids)) == {1, 2}
    assert json.loads(json.dumps(scene.to_dict()))["segments"][2]["name"] == "blue"


def test_an_image_in_which_nothing_is_sure_has_no_segment(detector):
    scene = detector.panoptic(np.zeros((64, 64, 3), np.uint8))
    assert len(scene) == 0
    assert not scene.ids.any()
    assert draw_scene(np.zeros((64, 64, 3), np.uint8), scene).size == (64, 64)


def test_a_model_of_boxes_alone_divides_nothing():
    model, params = tiny_detr()
    with pytest.raises(UserError, match="needs a model with masks; Detr has boxes alone"):
        Detector(model, params, image=CONFIG).panoptic(SMALL)


def test_a_label_without_a_name_is_no_segment():
    holes = Classes(("red", "N/A", "blue"), (3, None, 120), {2})
    scene = Detector(StripeFinder(), PARAMS, holes, IMAGE).panoptic(SMALL)
    assert scene.names == ("red", "blue")


def test_a_mask_tints_its_object_and_has_an_outline(detector):
    found = detector(LARGE, threshold=0.9)
    picture = np.array(draw(LARGE, found, scores=False))
    red, green, black = (150, 260), (150, 40), (150, 130)
    assert (picture[black] == 0).all()
    for place, channel in ((red, 0), (green, 1)):
        assert (picture[place] != LARGE[place]).any(), "the object is tinted"
        expected = 0.55 * LARGE[place] + 0.45 * np.asarray(class_color(channel))
        np.testing.assert_allclose(picture[place], expected, atol=1)
    edge = int(np.flatnonzero(found.masks[0][150])[0])
    assert (picture[150, edge] == class_color(0)).all()


def test_segments_have_colours_apart_and_names_within_the_picture(detector):
    segments = [Segment(n, 4, "cat", True, 0.9, 9) for n in range(1, 9)]
    segments.append(Segment(9, 4, "fog", False, 0.9, 9))
    colors = np.asarray(scene_colors(segments), int)
    apart = np.abs(colors[:, None] - colors[None]).sum(-1) + 999 * np.eye(9, dtype=int)
    assert apart.min() >= 8
    assert np.ptp(colors[8]) < np.ptp(colors[0]), "stuff is paler"
    image = LARGE.copy()
    picture = np.array(draw_scene(image, detector.panoptic(LARGE)))
    assert (image == LARGE).all(), "the given array is not drawn on"
    assert (picture != LARGE).any(-1).mean() > 0.95


def test_files_of_others_are_not_overwritten(tmp_path):
    images = [tmp_path / "a.jpg", tmp_path / "A.png"]
    scene = Scene(np.ones((2, 3), np.int32), (Segment(1, 2, "sky", False, 0.9, 6),))
    path, out = tmp_path / "out" / "scenes.json", tmp_path / "pictures"
    files = PanopticFiles(path, images, out)
    annotations = [files.save(image, scene, (0, 0, 17)) for image in images]
    assert [a["file_name"] for a in annotations] == ["a.png", "A_2.png"]
    (record,) = annotations[0]["segments_info"]
    assert (record["category_id"], record["bbox"], record["area"]) == (17, [0, 0, 3, 2], 6)
    found = zip(images, [scene.size] * 2, annotations, strict=True)
    files.write(found, None)
    PanopticFiles(path, images[:1], out).write([], None)
    assert not list((tmp_path / "out" / "scenes").iterdir()), "what was listed has gone"
    (tmp_path / "out" / "scenes" / "a.png").write_bytes(b"somebody's")
    with pytest.raises(UserError, match=r"a\.png, which no earlier run wrote"):
        PanopticFiles(path, images, out)
    path.write_text("{}")
    with pytest.raises(UserError, match=r"scenes\.json, which no earlier run wrote"):
        PanopticFiles(path, images, out)
    with pytest.raises(UserError, match=r"must end in \.json"):
        PanopticFiles(tmp_path / "scenes.txt", images, out)


def test_ground_truth_is_not_taken_for_an_earlier_run(tmp_path):
    path = stripes(tmp_path)
    before = {p: p.read_bytes() for p in path.parent.rglob("*") if p.is_file()}
    with pytest.raises(UserError, match=r"no earlier run wrote"):
        PanopticFiles(path, [Path("cat.jpg")], tmp_path / "out")
    assert before == {p: p.read_bytes() for p in path.parent.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", ["out.json", "out/predictions.json"])
def test_scenes_do_not_lie_where_pictures_do(tmp_path, name):
    with pytest.raises(UserError, match=r"would lie where --out .* writes pictures"):
        PanopticFiles(tmp_path / name, [Path("a.png")], tmp_path / "out")


def test_scenes_do_not_overwrite_images(tmp_path):
    with pytest.raises(UserError, match=r"would overwrite the image .*a\.png"):
        PanopticFiles(tmp_path / "photos.json", [tmp_path / "photos" / "a.png"], tmp_path / "out")


def test_the_command_draws_masks_and_divides_scenes(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    names = [category["name"] for category in CATEGORIES]
    weights = save_tiny(tmp_path / "weights", name="detr.tiny_masks", names=names, stuff=[2])
    photos = stripes(tmp_path / "data").parents[1] / "val"
    out, scenes, coco = (tmp_path / name for name in ("out", "scenes.json", "coco.json"))
    call = ["predict", str(photos), "--weights", str(weights), "--out", str(out)]

    assert cli.main([*call, "--threshold", "0", "--coco", str(coco)]) == 0
    listed = json.loads((out / "predictions.json").read_text())[0]["objects"]
    records = [r for r in json.loads(coco.read_text()) if r["image_id"] == 11]
    assert [r["segmentation"] for r in records] == [o["segmentation"] for o in listed]
    assert records[0]["segmentation"]["size"] == [64, 64]

    assert cli.main([*call, "--threshold", "0.2", "--panoptic", str(scenes)]) == 0
    assert "3 images, " in capsys.readouterr().out
    content = json.loads(scenes.read_text())
    assert [c["isthing"] for c in content["categories"]] == [1, 1, 0]
    assert sum(len(a["segments_info"]) for a in content["annotations"]) > 0
    for image, annotation in zip(content["images"], content["annotations"], strict=True):
        colours = np.array(Image.open(scenes.with_suffix("") / annotation["file_name"]))
        assert colours.shape == (image["height"], image["width"], 3)
        areas = dict(zip(*np.unique(ids_of_colours(colours), return_counts=True), strict=True))
        assert {s["id"]: s["area"] for s in annotation["segments_info"]} == {
            id_: area for id_, area in areas.items() if id_
        }
    segments = json.loads((out / "predictions.json").read_text())[0]["segments"]
    assert len(segments) == len(content["annotations"][0]["segments_info"])
    # What is written can be read as ground truth.
    again = open_dataset(f"panoptic:{scenes}?images={photos}&masks=1")
    assert len(again[0].masks) == len(segments)

    boxes = save_tiny(tmp_path / "boxes")
    call = ["predict", str(photos), "--weights", str(boxes), "--panoptic", str(scenes)]
    assert cli.main([*call, "--out", str(tmp_path / "none")]) == 2
    assert "needs a model with masks" in capsys.readouterr().err.replace("\n", " ")


def test_detections_that_are_not_finite_draw_no_mask():
    detector = Detector(StripeFinder(), {"gain": jnp.float32(np.nan)}, CLASSES, IMAGE)
    with pytest.warns(NotFinite, match="the masks of 3 of 3 queries are not finite"):
        found = detector(SMALL)
    assert len(found) == 3
    assert not found.masks.any()
    with pytest.warns(NotFinite):
        assert len(detector.panoptic(SMALL)) == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("part", ["logits", "class_logits"])
def test_only_queries_that_are_not_finite_take_no_part_in_a_scene(part, value):
    arrays = {
        "logits": np.full((1, 3, 16, 16), -5, np.float32),
        "class_logits": np.asarray([[[9, 0, 0], [9, 0, 0], [0, 9, 0]]], np.float32),
    }
    arrays["logits"][0, 0, :, :8] = arrays["logits"][0, 1, :, 8:] = arrays["logits"][0, 2] = 5
    arrays[part][0, 2, ..., 1] = value

    def divided():
        masks = ImageMasks.of(QueryMasks(**arrays), 0, (64, 64), (64, 64), (64, 64), exact=True)
        return masks, masks.panoptic((True, True))

    with pytest.warns(NotFinite, match="1 of 3"):
        masks, found = divided()
    assert found.queries.tolist() == [0, 1]
    assert found.areas.sum() == 64 * 64
    instances = masks.instances(np.asarray([2]))
    assert instances.all() == (part == "class_logits")


def test_scenes_of_damaged_weights_are_refused_by_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    weights = save_tiny(tmp_path / "weights", "class_embed", "detr.tiny_masks", stuff=[2])
    photos = stripes(tmp_path / "data", [[("red", 64)]]).parents[1] / "val"
    scenes = tmp_path / "scenes.json"
    call = ["predict", str(photos), "--weights", str(weights), "--out", str(tmp_path / "out")]
    assert cli.main([*call, "--panoptic", str(scenes)]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "are not finite" in said
    assert "the weights are damaged" in said
    assert not scenes.exists()

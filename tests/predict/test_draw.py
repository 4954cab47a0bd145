"""Pictures of detections: frames where the boxes are, tags within the image."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from jaxseg.predict import fonts
from jaxseg.predict.draw import _places, draw
from jaxseg.predict.result import Prediction
from jaxseg.predict.tags import class_color, extent, shorten

GREY = 119


def prediction(boxes, size, labels=None, names=None) -> Prediction:
    n = len(boxes)
    labels = np.zeros(n, np.int32) if labels is None else np.asarray(labels, np.int32)
    scores = np.linspace(0.9, 0.5, n).astype(np.float32)
    names = names or tuple(f"class {label}" for label in labels)
    return Prediction(np.asarray(boxes, np.float32).reshape(n, 4), scores, labels, names, size)


def test_a_frame_lies_on_the_boxs_border():
    image = np.full((200, 300, 3), GREY, np.uint8)
    found = prediction([[50, 60, 150, 160]], (200, 300))
    picture = np.array(draw(image, found))
    changed = (picture != GREY).any(-1)
    assert (picture[60:160, 50] == class_color(0)).all()
    assert (picture[60:160, 149] == class_color(0)).all()
    assert (picture[159, 50:150] == class_color(0)).all()
    assert not changed[100, 60:140].any(), "the object itself stays visible"
    assert not changed[:, 160:].any()
    assert (image == GREY).all(), "the given array is not drawn on"


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (24, 40), (40, 2000)])
def test_images_of_any_size_can_be_drawn_on(size):
    height, width = size
    boxes = [[-5, -5, width + 9, height + 9], [0, 0, 0, 0], [width, height, width, height]]
    picture = draw(np.zeros((height, width, 3), np.uint8), prediction(boxes, size, [0, 1, 2]))
    assert picture.size == (width, height)


def test_no_objects_leave_the_picture_as_it_is():
    image = np.full((20, 30, 3), GREY, np.uint8)
    np.testing.assert_array_equal(np.array(draw(image, prediction([], (20, 30)))), image)


@pytest.mark.parametrize("box", [[0, 0, 20, 20], [280, 190, 300, 200], [-50, -50, 400, 400]])
def test_tags_stay_inside_the_image(box):
    for x1, y1, x2, y2 in _places(np.clip(box, 0, [300, 200, 300, 200]), (80, 15), (300, 200)):
        assert 0 <= x1 <= x2 <= 300
        assert 0 <= y1 <= y2 <= 200


def test_two_objects_at_one_place_have_two_tags():
    image = np.full((200, 300, 3), GREY, np.uint8)
    box = [100, 80, 220, 170]
    one = np.array(draw(image, prediction([box], (200, 300))))
    two = np.array(draw(image, prediction([box, box], (200, 300), [0, 1])))
    tag_of_second = (two == class_color(1)).all(-1)
    assert tag_of_second.sum() > 200
    assert not (tag_of_second & (one != GREY).any(-1))[:78].any()


def test_neighbouring_classes_have_distinct_colours():
    colours = np.asarray([class_color(label) for label in range(91)], float)
    assert len(np.unique(colours, axis=0)) == 91
    assert np.linalg.norm(np.diff(colours, axis=0), axis=1).min() > 60
    assert Image.new("RGB", (1, 1), class_color(3)).getpixel((0, 0)) == class_color(3)


def named(*names, size=(120, 300)) -> np.ndarray:
    """A drawn picture of an object of each name."""
    boxes = [[20, 40 + 40 * i, 280, 70 + 40 * i] for i in range(len(names))]
    image = np.full((*size, 3), GREY, np.uint8)
    return np.array(draw(image, prediction(boxes, size, names=names), scores=False))


def test_names_may_hold_any_whitespace():
    np.testing.assert_array_equal(named(" traffic\n\tlight "), named("traffic light"))


def test_letters_that_pillows_font_lacks_come_from_the_machines_fonts():
    fonts._path_for.cache_clear()
    if not fonts._path_for(frozenset("кошаКЖ")):
        pytest.skip("this machine has no font with Cyrillic letters")
    assert (named("Кошка") != named("КЖшка")).any(), "boxes would look the same"
    assert (named("café") != named("cafü")).any()


def test_letters_without_a_font_are_told_once(caplog, monkeypatch):
    monkeypatch.setattr(fonts, "_installed", lambda: ())
    fonts._path_for.cache_clear()
    named("Кошка", "Кошка")
    named("Кошка")
    assert len(caplog.records) == 1
    assert "no font of this machine has the letters Какош" in caplog.text
    fonts._path_for.cache_clear()


def test_a_file_that_is_no_font_is_passed_over(tmp_path, monkeypatch):
    (tmp_path / "a.ttf").write_bytes(b"no font")
    monkeypatch.setattr(fonts, "_folders", lambda: [tmp_path, tmp_path / "none"])
    fonts._installed.cache_clear()
    fonts._path_for.cache_clear()
    assert fonts._installed() == (str(tmp_path / "a.ttf"),)
    named("Кошка")
    fonts._installed.cache_clear()
    fonts._path_for.cache_clear()


@pytest.mark.parametrize("size", [(24, 40), (40, 40), (64, 48)])
def test_a_long_name_does_not_cover_a_small_image(size):
    height, width = size
    box = [2, 2, width - 2, height - 2]
    image = np.full((height, width, 3), GREY, np.uint8)
    names = ("a name that is longer than the image is wide",)
    picture = np.array(draw(image, prediction([box], size, names=names)))
    inside = (picture[4:-4, 4:-4] == GREY).all(-1)
    assert inside.mean() > 0.5
    assert (picture[2, 10:30] != GREY).any(), "the frame is drawn in any case"


def test_a_name_that_is_too_long_keeps_its_beginning():
    canvas = ImageDraw.Draw(Image.new("RGB", (9, 9)))
    font = fonts.font_for("n", 12)
    for width in (1000, 120, 60, 30):
        text = shorten(canvas, "nine-banded armadillo", " 0.50", font, width)
        assert text.startswith("nin") or width == 30
        assert extent(canvas, text, font)[0] <= width or not text
    assert shorten(canvas, "nine", " 0.50", font, 45) == "nine"

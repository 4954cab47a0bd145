"""Pictures of detections: frames where the boxes are, tags within the image."""

import numpy as np
import pytest
from PIL import Image

from jaxseg.predict.draw import _places, class_color, draw
from jaxseg.predict.result import Prediction

GREY = 119


def prediction(boxes, size, labels=None) -> Prediction:
    n = len(boxes)
    labels = np.zeros(n, np.int32) if labels is None else np.asarray(labels, np.int32)
    scores = np.linspace(0.9, 0.5, n).astype(np.float32)
    names = tuple(f"class {label}" for label in labels)
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

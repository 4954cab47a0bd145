import numpy as np
import pytest
from PIL import Image

from jaxseg.predict.sheet import GAP, PAPER, sheet


def picture(width, height, color):
    return Image.new("RGB", (width, height), color)


def test_pictures_stand_row_by_row_in_equal_cells():
    red, green, blue = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    paper = sheet([picture(10, 6, red), picture(4, 6, green), picture(10, 2, blue)], columns=2)
    assert paper.size == (2 * (10 + GAP) + GAP, 2 * (6 + GAP) + GAP)
    pixels = np.asarray(paper)
    assert tuple(pixels[GAP, GAP]) == red
    second = GAP + 10 + GAP
    assert tuple(pixels[GAP, second]) == PAPER  # the narrow one is centred
    assert tuple(pixels[GAP, second + 3]) == green
    assert tuple(pixels[GAP + 6 + GAP + 2, GAP]) == blue
    for color, area in ((red, 60), (green, 24), (blue, 20)):
        assert (pixels == color).all(-1).sum() == area


def test_one_picture_takes_one_column():
    assert sheet([picture(5, 5, (1, 2, 3))]).size == (5 + 2 * GAP, 5 + 2 * GAP)


def test_no_picture_is_an_error():
    with pytest.raises(ValueError, match="at least one picture"):
        sheet([])

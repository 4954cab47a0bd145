"""Any image in; the sizes and canvases that DETR's rule asks for."""

import io

import numpy as np
import pytest
from PIL import Image

from jaxseg.errors import UserError
from jaxseg.predict.preprocess import (
    choose_bucket,
    default_buckets,
    load_image,
    put_on_canvas,
    resize,
    resized_size,
)

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 9, 3), np.uint8)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (800, 1066)),  # 800·640/480 = 1066.67, cut off
        ((640, 480), (1066, 800)),
        ((427, 640), (800, 1199)),
        ((800, 1000), (800, 1000)),
        ((300, 300), (800, 800)),
        ((400, 1000), (533, 1332)),  # round(1333·0.4) = 533
        ((100, 998), (134, 1337)),  # rounding up passes the limit a little, as the original does
        ((1, 1), (800, 800)),
    ],
)
def test_sizes_follow_the_rule_of_the_paper(size, expected):
    assert resized_size(size, 800, 1333, limit=1344) == expected


def test_a_strip_keeps_a_pixel_and_fits_the_canvas():
    for size in ((1, 5000), (5000, 1), (2, 8000)):  # the original asks for no pixels at all
        resized = resized_size(size, 800, 1333, limit=1344)
        assert min(resized) >= 1
        assert 1333 <= max(resized) <= 1344


def test_default_canvases_hold_every_resized_image():
    buckets = default_buckets(800, 1333, 32)
    assert buckets == ((800, 1088), (800, 1344), (1088, 800), (1344, 800))
    sizes = [(h, w) for h in (1, 7, 99, 480, 1000) for w in (1, 13, 640, 1001, 40_000)]
    for size in sizes:
        resized = resized_size(size, 800, 1333, limit=1344)
        bucket = choose_bucket(resized, buckets)
        assert min(resized) >= 1
        assert resized[0] <= bucket[0]
        assert resized[1] <= bucket[1]


def test_the_smallest_canvas_is_chosen_and_a_missing_one_named():
    buckets = [(800, 1344), (800, 1088)]
    assert choose_bucket((800, 1066), buckets) == (800, 1088)
    with pytest.raises(UserError, match=r"\(900, 900\)"):
        choose_bucket((900, 900), buckets)


def test_images_lie_at_the_top_left_of_their_canvas():
    images = put_on_canvas([RGB, RGB[:2, :3]], (8, 10))
    assert images.pixels.shape == (2, 8, 10, 3)
    np.testing.assert_array_equal(images.pixels[0, :6, :9], RGB)
    assert images.mask.sum((1, 2)).tolist() == [54, 6]
    assert (images.pixels[~images.mask] == 0).all()


def test_resizing_equals_pillows_and_leaves_the_right_size_alone():
    assert resize(RGB, (6, 9)) is RGB
    expected = Image.fromarray(RGB).resize((5, 4), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(resize(RGB, (4, 5)), np.array(expected))


def saved(image: Image.Image, suffix: str, **options) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, suffix, **options)
    return file


def test_files_of_every_mode_become_rgb(tmp_path):
    grey = Image.fromarray(RGB[..., 0])
    deep = Image.fromarray(RGB[..., 0].astype(np.uint16) * 257)
    palette = Image.fromarray(RGB).quantize(8)
    palette.info["transparency"] = bytes(8)
    alpha = Image.fromarray(RGB).convert("RGBA")
    cases = {
        "grey.png": (grey, RGB[..., :1].repeat(3, -1)),
        "deep.png": (deep, RGB[..., :1].repeat(3, -1)),
        "alpha.png": (alpha, RGB),
        "palette.png": (palette, np.array(palette.convert("RGBA").convert("RGB"))),
        "cmyk.tif": (Image.fromarray(RGB).convert("CMYK"), RGB),
        "bits.png": (grey.convert("1"), np.array(grey.convert("1").convert("RGB"))),
        "rgb.webp": (Image.fromarray(RGB), None),
    }
    for name, (image, expected) in cases.items():
        image.save(tmp_path / name)
        loaded = load_image(tmp_path / name)
        assert loaded.dtype == np.uint8
        assert loaded.shape == (6, 9, 3)
        if expected is not None:
            np.testing.assert_array_equal(loaded, expected, err_msg=name)


def test_photos_taken_sideways_stand_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90° clockwise
    Image.fromarray(RGB).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(load_image(tmp_path / "turned.png"), np.rot90(RGB, -1))


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (RGB, RGB),
        (RGB / np.float32(255), RGB),
        (RGB.astype(np.float64) / 255, RGB),
        (RGB.astype(np.uint16) * 257, RGB),
        (RGB[..., 0], RGB[..., :1].repeat(3, -1)),
        (RGB[..., :1], RGB[..., :1].repeat(3, -1)),
        (np.concatenate([RGB, RGB[..., :1]], -1), RGB),
        (RGB[:1], RGB[:1]),
        (RGB[..., 0] > 100, (RGB[..., :1] > 100).repeat(3, -1) * np.uint8(255)),
    ],
)
def test_arrays_of_every_kind_become_rgb(array, expected):
    np.testing.assert_array_equal(load_image(array), expected)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((3, 8, 8), np.uint8), r"\(3, 8, 8\).*channels last"),
        (np.zeros((2, 8, 8, 3), np.uint8), "list"),
        (np.zeros((0, 8, 3), np.uint8), "not empty"),
        (np.zeros((8, 8, 3), np.int32), "int32"),
        (np.full((8, 8, 3), 255.0), r"0, 1\]; got 255\.\.255"),
        (np.full((8, 8, 3), np.nan), r"\[0, 1\]; got nan"),
        (np.full((8, 8, 3), -0.5), r"\[0, 1\]; got -0.5"),
        (7, "got int"),
    ],
)
def test_what_is_no_image_is_refused_with_a_reason(source, message):
    with pytest.raises(UserError, match=message):
        load_image(source)


def test_bad_files_are_named(tmp_path):
    whole = saved(Image.fromarray(RNG.integers(0, 256, (64, 64, 3), np.uint8)), "JPEG").getvalue()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "empty.png").write_bytes(b"")
    for name in ("cut.jpg", "text.jpg", "empty.png", "missing.jpg", "."):
        with pytest.raises(UserError, match=str(tmp_path / name)):
            load_image(tmp_path / name)


def test_an_image_of_values_that_are_not_grey_levels_is_named(tmp_path):
    cases = {"deep.tif": np.full((4, 4), 70_000, np.int32), "float.tif": np.full((4, 4), 9.0)}
    for name, values in cases.items():
        Image.fromarray(values.astype(np.int32 if name == "deep.tif" else np.float32)).save(
            tmp_path / name
        )
        with pytest.raises(UserError, match=f"cannot use the image {tmp_path / name}"):
            load_image(tmp_path / name)


def test_an_image_beyond_pillows_limit_says_what_to_do(tmp_path, monkeypatch):
    Image.fromarray(RGB).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(UserError, match=r"large\.png .*scale it down or cut it up"):
        load_image(tmp_path / "large.png")

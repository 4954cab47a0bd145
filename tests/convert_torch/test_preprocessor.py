"""Preprocessor configs of Hugging Face: each form that is in use, and notes on what differs."""

import numpy as np
import pytest

from jaxseg.checkpoints import ImageConfig
from jaxseg.errors import UserError
from jaxseg_convert_torch.preprocessor import read_preprocessor, write_preprocessor


def test_preprocessors_of_old_and_new_transformers_are_read():
    image = ImageConfig(mean=(0.5, 0.4, 0.3), short_side=640, long_side=1000)
    assert read_preprocessor(write_preprocessor(image)) == (image, [])
    old = {"size": 640, "max_size": 1000, "image_mean": [0.5, 0.4, 0.3], "do_resize": True}
    assert read_preprocessor(old) == (image, [])
    nulls = dict.fromkeys(["size", "image_mean", "image_std", "rescale_factor", "resample"])
    assert read_preprocessor(nulls | {"max_size": 1333}) == (ImageConfig(), [])


@pytest.mark.parametrize(
    ("config", "sides", "note"),
    [
        ({"size": {"max_height": 480, "max_width": 480}}, (480, 480), None),
        ({"size": {"max_height": 480, "max_width": 640}}, (480, 640), "at most 480 and 640"),
        ({"size": {"height": 640, "width": 640}}, (640, 640), "at most 640 and 640"),
        ({"size": {"shortest_edge": 600}, "max_size": 900}, (600, 900), None),
        ({"size": {"shortest_edge": 600}}, (600, 1333), "does not limit it"),
        (
            {"size": {"shortest_edge": 600, "longest_edge": None}},
            (600, 1333),
            "a long side of at most 1333",
        ),
        ({"size": {"longest_edge": 600}}, (800, 1333), "size={'longest_edge': 600}"),
        ({"max_size": 1333, "do_resize": False}, (800, 1333), "do_resize=false"),
        ({"max_size": 1333, "resample": 3}, (800, 1333), "resample=3"),
    ],
)
def test_sizes_of_every_form_are_read_or_noted(config, sides, note):
    image, notes = read_preprocessor(config)
    assert (image.short_side, image.long_side) == sides
    assert len(notes) == (note is not None)
    assert note is None or note in notes[0]


@pytest.mark.parametrize(
    "config",
    [
        {"do_normalize": False},
        {"do_rescale": False},
        {"rescale_factor": 1 / 127.5},
        {"rescale_factor": 1.0, "image_mean": [100, 110, 120], "image_std": [50, 60, 70]},
    ],
)
def test_other_scalings_give_the_same_pixels(config):
    image, _ = read_preprocessor(config)
    pixels = np.asarray([0, 100, 255])
    mean, std = np.asarray(config.get("image_mean", ImageConfig().mean)), ImageConfig().std
    std = np.asarray(config.get("image_std", std))
    factor = 1 if config.get("do_rescale") is False else config.get("rescale_factor", 1 / 255)
    expected = pixels * factor
    if config.get("do_normalize", True):
        expected = (expected - mean) / std
    np.testing.assert_allclose((pixels / 255 - image.mean) / image.std, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ([1], "must hold a JSON object"),
        ({"size": []}, "size must be a number or an object"),
        ({"size": {"shortest_edge": "x", "longest_edge": 3}}, "shortest_edge must be a whole"),
        ({"image_mean": []}, "image_mean must be 3 numbers; got"),
        ({"image_std": [1, 1, 0]}, "image_std must be 3 numbers above 0"),
        ({"rescale_factor": []}, "rescale_factor must be 1 numbers above 0"),
    ],
)
def test_damaged_values_are_named(config, message):
    with pytest.raises(UserError, match=message):
        read_preprocessor(config)

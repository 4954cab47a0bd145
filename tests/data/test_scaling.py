import dataclasses

import numpy as np
import pytest

from jaxseg.data.edits import final_size
from jaxseg.data.scaling import scaled, scaled_buckets
from jaxseg.data.transforms import (
    Chain,
    DetrAugmentation,
    FixedSize,
    RandomCrop,
    RandomFlip,
    RandomResize,
    ScaleJitter,
    ShortSide,
    SmallSetAugmentation,
    detr_augmentation,
)
from jaxseg.errors import UserError
from jaxseg.train.configs import load_config


@pytest.mark.parametrize(
    ("transform", "half"),
    [
        (
            DetrAugmentation((480, 800), 1333, (400, 600), (384, 601)),
            DetrAugmentation((240, 400), 666, (200, 300), (192, 300)),
        ),
        (SmallSetAugmentation(240, 320, vertical=True), SmallSetAugmentation(120, 160, True)),
        (ScaleJitter(240, 320, 0.5, 2.0), ScaleJitter(120, 160, 0.5, 2.0)),
        (Chain((RandomFlip(0.5), ShortSide(80))), Chain((RandomFlip(0.5), ShortSide(40)))),
        (RandomResize((64, 96), 128), RandomResize((32, 48), 64)),
        (Chain((FixedSize(8, 1), RandomCrop(4, 6))), Chain((FixedSize(4, 1), RandomCrop(2, 3)))),
    ],
)
def test_every_length_in_pixels_is_scaled_and_nothing_else(transform, half):
    assert scaled(transform, 0.5) == half


def test_a_transform_that_does_not_say_its_sizes_is_refused():
    class Mine:
        def draw(self, size, rng):
            return ()

    with pytest.raises(UserError, match=r"data\.scale cannot change Mine"):
        scaled(Chain((RandomFlip(), Mine())), 0.5)


@pytest.mark.parametrize("factor", [0.21, 0.3, 0.48, 0.55, 1.1])
def test_what_fits_the_canvases_fits_them_scaled(factor):
    buckets = load_config("detr/finetune").data.buckets
    transform, rng = scaled(detr_augmentation(), factor), np.random.default_rng(0)
    canvases = scaled_buckets(buckets, factor, 32)
    assert all(side % 32 == 0 for canvas in canvases for side in canvas)
    # Rounding makes strips longer than the limit, at any scale.
    for size in rng.integers(200, 1600, (2000, 2)).tolist():
        h, w = final_size(transform.draw(size, rng), size)
        assert any(h <= canvas[0] and w <= canvas[1] for canvas in canvases)


def test_one_number_makes_a_recipe_smaller():
    data = load_config("detr/finetune").data
    small = dataclasses.replace(data, scale=0.5).scaled(32)
    assert data.scaled(32) is data
    assert (small.image.short_side, small.image.long_side) == (400, 666)
    assert max(small.transform.shorts) == 400
    assert (416, 672) in small.buckets

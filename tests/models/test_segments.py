"""From mask logits to masks and segments: worked by hand, and against the plain operations."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxseg.models.detr import segments as module
from jaxseg.models.detr.segments import instance_masks, own_part, panoptic_segments
from jaxseg.ops.masks import resize_bilinear, resize_nearest

SURE, UNSURE = 9.0, 1.0
THINGS = (True, True, False, False)  # labels 0 and 1 are things, 2 and 3 stuff; 4 is no-object


def classes(*rows):
    """Class logits of queries, from (label, logit)."""
    logits = np.zeros((len(rows), 5), np.float32)
    for row, (label, logit) in zip(logits, rows, strict=True):
        row[label] = logit
    return logits


def columns(*rows):
    """Mask logits (q, 4, n), the same in every row."""
    return np.repeat(np.asarray(rows, np.float32)[:, None], 4, 1)


def divide(class_logits, logits, **options):
    size = logits.shape[1:]
    return panoptic_segments(class_logits, logits, size, size, size, THINGS, **options)


def test_a_pixel_goes_to_the_best_mask_of_those_that_are_sure():
    found = divide(
        classes((0, SURE), (1, UNSURE), (4, SURE), (2, SURE)),
        columns([3, 3, 0, 0], [9, 9, 9, 9], [9, 9, 9, 9], [1, 1, 1, 1]),
        small=0,
    )
    np.testing.assert_array_equal(found.ids, [[0, 0, 1, 1]] * 4)
    np.testing.assert_array_equal(found.queries, [0, 3])
    np.testing.assert_array_equal(found.labels, [0, 2])
    np.testing.assert_array_equal(found.areas, [8, 8])
    assert (found.scores > 0.85).all()


def test_one_kind_of_stuff_is_one_segment_and_things_stay_apart():
    found = divide(
        classes((2, SURE), (0, SURE), (2, SURE), (0, SURE)),
        columns([3, 0, 0, 0], [0, 3, 0, 0], [0, 0, 3, 0], [0, 0, 0, 3]),
        small=-1,
    )
    np.testing.assert_array_equal(found.ids, [[0, 1, 0, 3]] * 4)
    np.testing.assert_array_equal(found.areas, [8, 4, 0, 4])


def test_small_segments_go_again_and_again_and_stuff_is_not_merged_a_second_time():
    # Columns 0 to 5. Query 1 has 4 pixels; when it is gone, query 2, which was merged into query
    # 0 and so had none, is gone as well: its columns fall to whoever is next.
    logits = columns(
        [5, 5, 0, 0, 0, 0],
        [0, 0, 5, 0, 0, 0],
        [0, 0, 1, 5, 5, 0],
        [0, 0, 0, 2, 1, 5],
        [0, 0, 2, 0, 2, 4],
    )
    rows = classes((2, SURE), (0, SURE), (2, SURE), (1, SURE), (1, SURE))
    found = divide(rows, logits)
    # First: ids 0 0 1 0 0 3, areas 16 4 0 4 0; all but query 0 are dropped at once.
    np.testing.assert_array_equal(found.queries, [0])
    assert not found.ids.any()
    np.testing.assert_array_equal(found.areas, [24])
    wide = divide(rows, np.repeat(logits, 2, 1))  # twice as high: 8 pixels are enough
    np.testing.assert_array_equal(wide.queries, [0, 1, 3])
    np.testing.assert_array_equal(wide.ids[0], [0, 0, 1, 2, 2, 2])
    np.testing.assert_array_equal(wide.areas, [16, 8, 24])


def test_without_a_sure_query_there_is_no_segment():
    found = divide(classes((0, UNSURE)), columns([1, 1, 1, 1]))
    assert found.ids.shape == (4, 4)
    assert not found.ids.any()
    assert [len(x) for x in found[1:]] == [0, 0, 0, 0]


def test_a_label_that_is_no_category_takes_no_part():
    rows, logits = classes((1, SURE), (0, SURE)), columns([9, 9, 9, 9], [1, 1, 1, 1])
    size = (4, 4)
    found = panoptic_segments(rows, logits, size, size, size, (True, None, False, False))
    np.testing.assert_array_equal(found.queries, [1])


@pytest.mark.parametrize("strip", [2**24, 500])
def test_panoptic_pixels_are_those_of_resizing_twice(strip, monkeypatch):
    monkeypatch.setattr(module, "_STRIP", strip)
    logits = np.random.default_rng(0).normal(size=(5, 9, 12)).astype(np.float32)
    rows = classes(*[(n % 4, SURE) for n in range(5)])
    size, original = (33, 46), (57, 31)
    all_things = (True,) * 4
    found = panoptic_segments(rows, logits, size, size, original, all_things, small=-1)
    whole = np.asarray(resize_bilinear(jnp.asarray(logits), size)).argmax(0).astype(np.uint8)
    expected = Image.fromarray(whole).resize(original[::-1], Image.Resampling.NEAREST)
    np.testing.assert_array_equal(found.ids, np.asarray(expected))
    np.testing.assert_array_equal(found.areas, np.bincount(found.ids.ravel(), minlength=5))


@pytest.mark.parametrize("strip", [2**24, 500])
@pytest.mark.parametrize("threshold", [0.5, 0.6])
def test_instance_pixels_are_those_of_resizing_cutting_and_resizing(threshold, strip, monkeypatch):
    monkeypatch.setattr(module, "_STRIP", strip)
    logits = np.random.default_rng(1).normal(size=(3, 8, 10)).astype(np.float32)
    covers, size, original = (32, 40), (27, 31), (61, 44)
    found = instance_masks(logits, covers, size, original, threshold)
    whole = 1 / (1 + jnp.exp(-resize_bilinear(jnp.asarray(logits), covers))) > threshold
    expected = resize_nearest(whole[:, : size[0], : size[1]], original)
    assert np.count_nonzero(found != expected) <= 2  # rounding at the threshold
    assert 0.05 < found.mean() < 0.95


def test_an_image_alone_has_the_part_of_the_map_that_begins_within_it():
    logits = np.arange(48, dtype=np.float32).reshape(1, 6, 8)
    part = own_part(logits, (24, 32), (17, 20))
    np.testing.assert_array_equal(part, logits[:, :5, :5])

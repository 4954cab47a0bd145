import numpy as np
import pytest

from jaxseg.data.batching import by_area, choose_bucket, collate, pad_to_multiple, to_cxcywh
from jaxseg.data.epochs import EMPTY, plan_epoch
from jaxseg.errors import UserError
from tests.data.test_transforms import example

BUCKETS = by_area([(8, 4), (4, 8), (8, 8)])


def test_the_smallest_bucket_that_holds_an_image_is_chosen():
    assert BUCKETS == ((4, 8), (8, 4), (8, 8))
    assert choose_bucket((4, 8), BUCKETS) == 0
    assert choose_bucket((5, 4), BUCKETS) == 1
    assert choose_bucket((5, 5), BUCKETS) == 2
    assert choose_bucket((9, 1), BUCKETS) is None
    assert pad_to_multiple((801, 1333), 32) == (832, 1344)


@pytest.mark.parametrize("buckets", [(), [(0, 4)], [(4,)]])
def test_buckets_that_are_none_are_refused(buckets):
    with pytest.raises(UserError, match="pairs"):
        by_area(buckets)


def test_boxes_become_fractions_of_the_image_not_of_the_canvas():
    batch = collate([example(6, 8, ((2, 0, 6, 3),))], [5], [(12, 16)], (8, 16), 3)
    np.testing.assert_allclose(batch.targets.boxes[0, 0], [0.5, 0.25, 0.5, 0.5])
    assert batch.targets.mask.tolist() == [[True, False, False]]
    assert batch.sizes.tolist() == [[6, 8]]
    assert batch.original_sizes.tolist() == [[12, 16]]
    assert batch.index.tolist() == [5]


def test_an_image_lies_at_the_top_left_and_the_rest_is_padding():
    source = example(6, 8)
    batch = collate([source], [0], [(6, 8)], (8, 12), 4, masks=True)
    np.testing.assert_array_equal(batch.images.pixels[0, :6, :8], source.image)
    assert batch.images.pixels[0, 6:].max() == batch.images.pixels[0, :, 8:].max() == 0
    assert batch.images.mask.sum() == 48
    assert batch.images.mask[0, :6, :8].all()
    np.testing.assert_array_equal(batch.targets.masks[0, :2, :6, :8], source.masks)
    assert batch.targets.masks.sum() == source.masks.sum()


def test_a_filling_row_has_real_pixels_but_no_image():
    batch = collate([example(), None], [0, EMPTY], [(6, 8), (0, 0)], (8, 8), 2)
    assert batch.mask.tolist() == [True, False]
    assert batch.images.mask[1].all()
    assert not batch.targets.mask[1].any()
    assert batch.index.tolist() == [0, -1]


def test_objects_beyond_the_slots_are_left_out():
    batch = collate([example(6, 8, [(0, 0, i + 1, 1) for i in range(5)])], [0], [(6, 8)], (8, 8), 3)
    assert batch.targets.mask.all()
    assert batch.targets.labels.tolist() == [[0, 1, 2]]


def test_cxcywh_of_no_boxes_is_no_boxes():
    assert to_cxcywh(np.zeros((0, 4), np.float32), (5, 5)).shape == (0, 4)


@pytest.mark.parametrize("n", [1, 3, 8, 29])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_one_pass_has_every_image_once_on_its_bucket(n, batch_size):
    bucket_of = np.random.default_rng(n).integers(3, size=n)
    plan = plan_epoch(np.arange(n), bucket_of, BUCKETS, batch_size, drop_last=False)
    assert sorted(plan.rows[plan.rows != EMPTY].tolist()) == list(range(n))
    for row, bucket in zip(plan.rows, plan.buckets, strict=True):
        assert (bucket_of[row[row != EMPTY]] == bucket).all()


@pytest.mark.parametrize("n", [1, 3, 8, 29])
@pytest.mark.parametrize("seed", range(4))
def test_epochs_are_of_one_length_whatever_the_buckets(n, seed):
    rng = np.random.default_rng(seed)
    bucket_of = rng.integers(3, size=n)
    plan = plan_epoch(rng.permutation(n), bucket_of, BUCKETS, 4, drop_last=True)
    assert plan.rows.shape == (max(1, n // 4), 4)
    if n >= 4:
        assert len(np.unique(plan.rows)) == plan.rows.size
    for row, bucket in zip(plan.rows, plan.buckets, strict=True):
        for index in row:
            assert (np.asarray(BUCKETS[bucket_of[index]]) <= BUCKETS[bucket]).all()


@pytest.mark.parametrize(("chance", "kind"), [(0.1, 1), (0.3, 0), (0.9, 0)])
def test_where_no_canvas_holds_both_kinds_chance_decides_by_their_numbers(chance, kind):
    bucket_of = np.asarray([0, 0, 0, 1])
    plan = plan_epoch(np.arange(4), bucket_of, BUCKETS[:2], 4, drop_last=True, chance=chance)
    assert plan.buckets.tolist() == [kind]
    assert set(plan.rows[0].tolist()) == {i for i in range(4) if bucket_of[i] == kind}

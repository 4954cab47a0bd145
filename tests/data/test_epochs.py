from itertools import pairwise

import numpy as np
import pytest

from jaxseg.data.batching import by_area
from jaxseg.data.loader import Loader
from jaxseg.data.schedule import Schedule
from jaxseg.data.transforms import Chain, RandomFlip, RandomResize, ShortSide, detr_augmentation
from jaxseg.errors import UserError
from jaxseg_configs.detr._recipe import BUCKETS
from tests.data.test_loader import make

BATCH = 8
PLAIN = RandomResize((480, 608, 704, 800), 1333)


def schedule(landscape, portrait, transform=PLAIN, square=0, batch=BATCH, buckets=BUCKETS, seed=0):
    sizes = [(480, 640)] * landscape + [(640, 480)] * portrait + [(500, 500)] * square
    return Schedule(
        np.asarray(sizes),
        range(len(sizes)),
        transform=transform,
        buckets=by_area(buckets),
        batch_size=batch,
        seed=seed,
        shuffle=True,
        repeat=True,
        drop_last=True,
    )


def epoch(plan, number):
    """How often each image comes in an epoch."""
    n, steps = len(plan._sizes), plan.steps_per_epoch
    rows = [plan.locate(number * steps + k).rows for k in range(steps)]
    return np.bincount(np.concatenate(rows), minlength=n)


@pytest.mark.parametrize("numbers", [(90, 10), (97, 3), (60, 40), (90, 10, 7), (5, 3), (2, 2)])
@pytest.mark.parametrize("transform", [PLAIN, detr_augmentation()], ids=["resized", "detr"])
def test_an_epoch_of_the_recipe_drops_at_most_a_batch_for_each_orientation(numbers, transform):
    landscape, portrait, *square = numbers
    plan = schedule(landscape, portrait, transform, *square)
    for number in range(4):
        counts = epoch(plan, number)
        assert len(counts) // BATCH * BATCH == counts.sum() or len(counts) < BATCH
        missed = (counts == 0).sum()
        assert missed < 2 * BATCH
        assert (counts - 1).clip(0).sum() < BATCH


@pytest.mark.parametrize("numbers", [(90, 10), (97, 3)])
def test_over_the_epochs_of_the_recipe_every_image_comes_equally_often(numbers):
    plan = schedule(*numbers)
    counts = sum(epoch(plan, number) for number in range(300)) / 300
    wanted = 96 / 100
    assert abs(counts[: numbers[0]].mean() - wanted) < 0.02
    assert abs(counts[numbers[0] :].mean() - wanted) < 0.15
    assert counts.min() > 0.75


def test_with_detrs_crops_an_epoch_is_as_if_there_were_no_buckets():
    # Many a crop is nearly square and fills up either orientation.
    plan = schedule(90, 10, detr_augmentation())
    for number in range(5):
        counts = epoch(plan, number)
        assert counts.max() == 1
        assert (counts == 0).sum() == 100 % BATCH


def test_no_bucket_is_left_out_and_every_image_fits_its_canvas():
    plan = schedule(300, 300, batch=4)
    used = set()
    for step in range(plan.steps_per_epoch):
        place = plan.locate(step)
        used.add(plan.buckets[place.bucket])
        for index in place.rows:
            plan.check_fit(int(index), plan._size(int(index), place.epoch), place)
    assert len(used) > 4


def test_an_epoch_is_a_pure_function_of_seed_and_step():
    one, other = schedule(90, 10), schedule(90, 10)
    late = [other.locate(step) for step in range(40, 50)]
    for a, b in zip([one.locate(step) for step in range(50)][40:], late, strict=True):
        assert (a.epoch, a.bucket, a.rows.tolist()) == (b.epoch, b.bucket, b.rows.tolist())


def test_the_images_that_are_left_out_are_others_each_epoch():
    plan = schedule(90, 10)
    missed = [frozenset(np.flatnonzero(epoch(plan, number) == 0)) for number in range(6)]
    assert all(a != b for a, b in pairwise(missed))


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_an_image_that_grows_too_large_later_is_named(on_error):
    grow = Chain((RandomFlip(), RandomResize((32,) * 9 + (40,))))
    loader = make(transform=grow, buckets=((64, 64),), on_error=on_error)
    grown = make(transform=ShortSide(200), buckets=((999, 999),), on_error=on_error)
    loader._transform = grown._transform  # as if chance had been kinder when the run began
    with pytest.raises(UserError, match=r"image \d+ becomes 200 x \d+ .* fits none of the buckets"):
        loader.batch(0)


def test_loaders_of_several_hosts_agree_on_an_epoch_of_the_recipe():
    sizes = np.asarray([(48, 64)] * 13 + [(64, 48)] * 4)

    class Sizes:
        image_ids, classes = range(17), None

        def __init__(self):
            self.sizes = sizes

    def loader(part):
        return Loader(
            Sizes(), batch_size=4, buckets=((48, 64), (64, 48)), transform=Chain(),
            max_targets=1, seed=0, process_index=part, process_count=2,
        )  # fmt: skip

    one, two = loader(0), loader(1)
    assert one.steps_per_epoch == two.steps_per_epoch == 4
    assert [one.bucket(k) for k in range(40)] == [two.bucket(k) for k in range(40)]

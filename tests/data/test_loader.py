import warnings

import jax
import numpy as np
import pytest
from PIL import Image

from jaxseg.data import open_dataset
from jaxseg.data.loader import Loader
from jaxseg.data.transforms import (
    Chain,
    RandomFlip,
    RandomResize,
    detr_augmentation,
    evaluation_transform,
)
from jaxseg.errors import UserError
from jaxseg.structures import Batch
from tests.data.files import box, picture, shared, two_images

AUGMENT = Chain((RandomFlip(), RandomResize((32, 40, 48), 64)))
BUCKETS = ((48, 64), (64, 48), (64, 64))


def make(dataset=None, **changes) -> Loader:
    dataset = dataset or open_dataset("synthetic:shapes?count=22&size=48&vary=0.4")
    settings = {
        "batch_size": 4,
        "buckets": BUCKETS,
        "transform": AUGMENT,
        "max_targets": 6,
        "seed": 3,
        **changes,
    }
    return Loader(dataset, **settings)


def assert_equal(a: Batch, b: Batch) -> None:
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def rows(parts: list[Batch]) -> Batch:
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)


def test_a_step_is_the_same_from_the_start_and_from_itself():
    loader = make()
    batches = list(loader.iterate(0, 12))  # more than two epochs of 5
    assert len(batches) == 12
    for step in (0, 4, 5, 11):
        assert_equal(batches[step], make().batch(step))
        assert_equal(batches[step], next(iter(make().iterate(step, 1))))


def test_worker_processes_change_nothing():
    batches = list(make(workers=2).iterate(3, 5))
    assert len(batches) == 5
    for step, batch in enumerate(batches, 3):
        assert_equal(batch, make().batch(step))


@pytest.mark.parametrize("workers", [0, 1])
def test_masks_that_wait_are_bits_of_real_objects_and_arrive_whole(workers):
    dataset = open_dataset("synthetic:shapes?count=8&size=48&vary=0.4&objects=3&masks=1")
    # A width that fills no whole number of bytes.
    settings = {"masks": True, "max_targets": 60, "buckets": ((64, 67),), "workers": workers}
    loader = make(dataset, **settings)
    for step, batch in enumerate(loader.iterate(0, 2)):
        expected = loader.batch(step)
        assert_equal(batch, expected)
        assert batch.targets.masks.shape == (4, 60, 64, 67)
        assert batch.targets.masks.any((2, 3)).sum() == batch.targets.mask.sum() > 4
    waiting = loader._attempt(2, 1)
    assert waiting.batch.targets.masks is None
    assert waiting.bits.nbytes == expected.targets.mask.sum() * 64 * 9


def test_hosts_together_have_the_batch_of_one():
    hosts = [make(process_index=i, process_count=2) for i in range(2)]
    for step in range(6):
        assert hosts[0].bucket(step) == hosts[1].bucket(step)
        assert_equal(rows([host.batch(step) for host in hosts]), make().batch(step))


def test_the_bucket_is_known_before_the_batch_and_holds_it():
    loader, used = make(), set()
    for step in range(15):
        batch = loader.batch(step)
        assert batch.images.pixels.shape[1:3] == loader.bucket(step)
        assert (batch.sizes <= np.asarray(loader.bucket(step))).all()
        assert (batch.images.mask.sum((1, 2)) == batch.sizes.prod(-1)).all()
        used.add(loader.bucket(step))
    assert len(used) > 1


def test_an_epoch_has_each_image_once_and_the_next_another_order():
    loader = make(batch_size=2)
    epochs = [
        np.concatenate([loader.batch(e * 11 + k).index for k in range(11)]).tolist()
        for e in range(2)
    ]
    assert loader.steps_per_epoch == 11
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(22))
    assert epochs[0] != epochs[1]


def test_another_seed_is_another_order():
    indices = [[make(seed=s).batch(k).index.tolist() for k in range(5)] for s in range(2)]
    assert indices[0] != indices[1]


def test_evaluation_has_each_image_once_in_full_batches():
    loader = make(
        transform=evaluation_transform(40, 64), shuffle=False, repeat=False, drop_last=False
    )
    batches = list(loader.iterate())
    assert len(batches) == loader.steps_per_epoch
    assert all(len(batch.mask) == 4 for batch in batches)
    seen = np.concatenate([batch.index[batch.mask] for batch in batches])
    assert sorted(seen.tolist()) == list(range(22))
    sizes = loader.dataset.sizes
    for batch in batches:
        np.testing.assert_array_equal(
            batch.original_sizes[batch.mask], sizes[batch.index[batch.mask]]
        )
    assert list(loader.iterate(loader.steps_per_epoch)) == []


def test_targets_follow_their_images_through_augmentation():
    dataset = open_dataset("synthetic:shapes?count=8&size=48&masks=1")
    # Only enlarged: shrinking by nearest pixels may lose the tip of a star.
    enlarge = Chain((RandomFlip(), RandomResize((48, 56, 64))))
    batch = make(dataset, transform=enlarge, masks=True, batch_size=8).batch(0)
    for n in range(8):
        height, width = batch.sizes[n]
        for slot in np.flatnonzero(batch.targets.mask[n]):
            cx, cy, w, h = batch.targets.boxes[n, slot] * [width, height, width, height]
            ys, xs = np.nonzero(batch.targets.masks[n, slot])
            assert abs(xs.min() - (cx - w / 2)) <= 1.5
            assert abs(xs.max() + 1 - (cx + w / 2)) <= 1.5
            assert abs(ys.min() - (cy - h / 2)) <= 1.5
            assert abs(ys.max() + 1 - (cy + h / 2)) <= 1.5


def test_crowds_are_no_targets(tmp_path):
    annotations = [box(1, 7, 5, [1, 1, 2, 2]), box(2, 7, 5, [0, 0, 4, 4], iscrowd=1)]
    dataset = open_dataset(two_images(tmp_path, annotations=annotations))
    assert make(dataset, batch_size=2).batch(0).targets.mask.sum() == 1


def test_objects_without_a_slot_are_counted_and_said_once(tmp_path):
    annotations = [box(n, 7, 5, [n, 1, 1, 2]) for n in range(1, 6)]
    dataset = open_dataset(two_images(tmp_path, annotations=annotations))
    loader = make(dataset, batch_size=2, max_targets=2)
    with pytest.warns(UserWarning, match=r"wide\.png has 3 more objects than the 2 slots"):
        list(loader.iterate(0, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(loader.iterate(1, 1))
    assert loader.dropped == 6


def damaged(tmp_path):
    path = two_images(tmp_path)
    (tmp_path / "high.png").write_bytes(b"no image")
    return open_dataset(path)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_stops_with_its_name(tmp_path, workers):
    loader = make(damaged(tmp_path), batch_size=2, workers=workers)
    with pytest.raises(UserError, match=r"high\.png cannot be read"):
        list(loader.iterate(0, 2))


def test_an_unreadable_image_is_replaced_and_counted_on_request(tmp_path):
    loader = make(damaged(tmp_path), batch_size=2, on_error="skip", buckets=[(64, 64)])
    with pytest.warns(UserWarning, match=r"skipped: .*high\.png"):
        batch = loader.batch(0)
    assert batch.index.tolist() == [0, 0]
    assert batch.mask.all()
    assert len(loader.skipped) == 1


def test_an_unreadable_image_is_an_empty_row_in_evaluation(tmp_path):
    loader = make(damaged(tmp_path), batch_size=2, on_error="skip", repeat=False, shuffle=False)
    with pytest.warns(UserWarning, match=r"skipped: .*high\.png"):
        batch = loader.batch(0)
    assert sorted(zip(batch.mask.tolist(), batch.index.tolist(), strict=True)) == [
        (False, -1),
        (True, 0),
    ]


def test_a_data_set_smaller_than_the_batch_still_fills_it():
    batch = make(open_dataset("synthetic:shapes?count=3&size=40"), batch_size=8).batch(0)
    assert batch.mask.all()
    assert set(batch.index.tolist()) == {0, 1, 2}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 3, "process_count": 2}, "batch of 3 images does not divide"),
        ({"buckets": [(32, 32)]}, "fits none of the buckets"),
        ({"buckets": [(48, 64)]}, "fits none of the buckets"),
        ({"seed": -1}, "seed"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(changes, message):
    with pytest.raises(UserError, match=message):
        make(**changes)


def test_real_photos_load_with_detrs_augmentation():
    dataset = open_dataset(shared("coco_ccby/instances_train.json"), numbering="raw")
    loader = make(
        dataset,
        transform=detr_augmentation((96, 128), 213, (100, 120), (80, 110)),
        buckets=((128, 224), (224, 128)),
        max_targets=100,
        batch_size=5,
    )
    for batch in loader.iterate(0, 6):
        assert batch.mask.all()
        boxes = batch.targets.boxes[batch.targets.mask]
        assert (boxes[:, 2:] > 0).all()
        assert (boxes[:, :2] - boxes[:, 2:] / 2 > -1e-5).all()
        assert (boxes[:, :2] + boxes[:, 2:] / 2 < 1 + 1e-5).all()


def test_an_image_whose_file_changed_its_size_is_named(tmp_path):
    dataset = open_dataset(two_images(tmp_path))
    Image.fromarray(picture(9, 9)).save(tmp_path / "high.png")
    with pytest.raises(UserError, match=r"high\.png is 9 x 9"):
        make(dataset, batch_size=2).batch(0)

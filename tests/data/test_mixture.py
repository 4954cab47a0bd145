import jax
import numpy as np
import pytest

from jaxseg.data import open_dataset
from jaxseg.data.epochs import EMPTY
from jaxseg.data.loader import Loader
from jaxseg.data.mixture import Mixture
from jaxseg.data.transforms import Chain, RandomFlip, RandomResize
from jaxseg.errors import UserError
from tests.data.words import prompts

SIZES = (6, 20)


def small():
    return open_dataset(f"synthetic:shapes?count={SIZES[0]}&size=40&seed=1&classes=2")


def large():
    return open_dataset(f"coloured:train?count={SIZES[1]}&size=48&seed=2")


def mixture(weights=(1, 3), epoch=None) -> Mixture:
    return Mixture(list(zip((small(), large()), weights, strict=True)), epoch)


def load(dataset, **changes) -> Loader:
    settings = {
        "batch_size": 4,
        "buckets": ((48, 48), (64, 64)),
        "transform": Chain((RandomFlip(), RandomResize((40, 48, 56)))),
        "max_targets": 6,
        "seed": 3,
        "prompts": prompts(),
    }
    return Loader(dataset, **settings | changes)


def equal(a, b) -> bool:
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: np.array_equal(x, y), a, b)))


def owner(rows) -> np.ndarray:
    return np.asarray(rows) % sum(SIZES) >= SIZES[0]


def test_each_data_set_has_its_weights_share_of_every_epoch():
    dataset = mixture((1, 3), epoch=40)
    for epoch in range(5):
        rows = dataset.draws(7, epoch)
        assert len(rows) == 40
        assert owner(rows).sum() == 30


def test_shares_that_are_no_whole_numbers_are_right_in_the_long_run():
    dataset = mixture((1, 2), epoch=10)
    counts = [int(owner(dataset.draws(0, epoch)).sum()) for epoch in range(30)]
    assert set(counts) == {6, 7}
    assert sum(counts) == 200


def test_images_of_a_data_set_come_equally_often_whatever_its_weight():
    dataset = mixture((5, 1), epoch=26)
    seen = np.concatenate([dataset.draws(0, epoch) % 26 for epoch in range(12)])
    counts = np.bincount(seen, minlength=26)
    for part in (counts[: SIZES[0]], counts[SIZES[0] :]):
        assert part.max() - part.min() <= 1


def test_an_image_that_comes_again_in_an_epoch_is_another_row_of_the_same_image():
    rows = mixture((9, 1), epoch=60).draws(0, 0)
    assert len(set(rows.tolist())) == 60
    assert len(set((rows % 26).tolist())) < 30


def test_an_epoch_is_all_images_in_number_and_in_a_random_order():
    dataset = mixture((6, 20))
    rows = [dataset.draws(0, epoch) for epoch in range(2)]
    assert [sorted(r.tolist()) for r in rows] == [list(range(26))] * 2
    assert rows[0].tolist() != rows[1].tolist()
    assert dataset.draws(1, 0).tolist() != rows[0].tolist()
    assert (np.diff(owner(rows[0]).astype(int)) != 0).sum() > 4


def test_steps_are_the_same_from_the_start_and_from_themselves():
    batches = list(load(mixture((3, 1))).iterate(0, 14))
    assert load(mixture((3, 1))).steps_per_epoch == 6
    for step in (0, 5, 6, 13):
        assert equal(batches[step], load(mixture((3, 1))).batch(step))


def test_hosts_together_have_the_batch_of_one():
    hosts = [load(mixture(), process_index=i, process_count=2) for i in range(2)]
    for step in (0, 7):
        assert hosts[0].bucket(step) == hosts[1].bucket(step)
        parts = [host.batch(step) for host in hosts]
        assert equal(
            jax.tree.map(lambda *x: np.concatenate(x), *parts), load(mixture()).batch(step)
        )


def test_workers_change_nothing():
    for step, batch in enumerate(load(mixture(), workers=1).iterate(5, 2), 5):
        assert equal(batch, load(mixture()).batch(step))


def test_images_that_come_twice_in_an_epoch_are_augmented_anew():
    loader = load(mixture((9, 1), epoch=60), batch_size=1)
    drawn: dict[int, set] = {}
    for step in range(60):
        batch = loader.batch(step)
        drawn.setdefault(int(batch.index[0]), set()).add(batch.images.pixels.tobytes())
    assert max(map(len, drawn.values())) > 2
    assert all(0 <= index < 26 for index in drawn)


def test_images_are_asked_for_the_classes_of_their_own_data_set():
    dataset = mixture()
    assert dataset[0].names == ("circle", "square")
    assert dataset[6].names == large().classes.names
    assert dataset[6].exhaustive
    assert dataset.classes.names == ("circle", "square", *large().classes.names)
    assert dataset.names_by_image


def test_data_sets_of_the_same_classes_stay_usable_for_any_detector():
    parts = [open_dataset(f"synthetic:shapes?count=4&size=40&seed={seed}") for seed in (0, 1)]
    dataset = Mixture([(part, 1.0) for part in parts])
    assert dataset.classes == parts[0].classes
    assert not dataset.names_by_image
    assert dataset[5].names is None
    batch = load(dataset, prompts=None).batch(0)
    assert batch.mask.all()


def test_positions_ids_and_sizes_are_those_of_the_parts():
    dataset = mixture()
    assert len(dataset) == 26
    assert dataset.image_ids[5:8] == ["0/6", "1/1", "1/2"]
    np.testing.assert_array_equal(dataset.sizes[[5, 6]], [[40, 40], [48, 48]])
    np.testing.assert_array_equal(dataset[6].image, large()[0].image)
    with pytest.raises(IndexError):
        dataset[26]


def test_its_ground_truth_joins_those_of_the_parts():
    truth = mixture().coco()
    names = {category["id"]: category["name"] for category in truth["categories"]}
    assert len(truth["images"]) == 26
    first = [a for a in truth["annotations"] if a["image_id"] == "1/1"]
    example = large()[0]
    assert [names[a["category_id"]] for a in first] == [
        large().classes.names[label] for label in example.labels
    ]
    assert len({a["id"] for a in truth["annotations"]}) == len(truth["annotations"])


def test_evaluated_it_is_every_image_once():
    loader = load(mixture(), shuffle=False, repeat=False, prompts=None)
    seen = np.concatenate([batch.index for batch in loader.iterate()])
    assert sorted(seen[seen != EMPTY].tolist()) == list(range(26))


@pytest.mark.parametrize(
    ("weights", "epoch", "message"),
    [
        ((1, 0), None, "weight of data set 1 must be above 0; got 0"),
        ((1, float("nan")), None, "weight of data set 1"),
        ((1, 1e-6), None, "data set 1 of the mixture has 1e-06 of the weight"),
        ((1, 1), 1, "data set 0"),
    ],
)
def test_weights_without_sense_are_refused(weights, epoch, message):
    with pytest.raises(UserError, match=message):
        mixture(weights, epoch)


def test_nothing_cannot_be_mixed():
    with pytest.raises(UserError, match="one data set or more"):
        Mixture([])

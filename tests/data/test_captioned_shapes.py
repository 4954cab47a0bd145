import numpy as np
import pytest

from jaxseg.data import open_dataset
from jaxseg.data.coloured import HELD_OUT, NAMES, SHADES
from jaxseg.data.shapes import SHAPES
from jaxseg.errors import UserError


def names(dataset, index) -> list[str]:
    return [dataset.classes.names[label] for label in dataset[index].labels]


def test_held_out_combinations_never_appear_in_training():
    dataset = open_dataset("coloured:train?count=300&size=32&seed=5")
    assert len(dataset.classes) == 30
    assert not set(dataset.classes.names) & set(HELD_OUT)
    said = {phrase for i in range(300) for phrase in _phrases(dataset[i].caption)}
    assert said == set(dataset.classes.names)


def _phrases(caption):
    return [part.removeprefix("a ") for part in caption.replace(" and ", ", ").split(", ")]


def test_every_colour_and_every_shape_is_trained_on():
    words = {w for name in open_dataset("coloured:train").classes.names for w in name.split()}
    assert words == {*SHADES, *SHAPES}


def test_the_seen_split_has_other_images_of_what_is_trained_on():
    train = open_dataset("coloured:train?count=4&size=32")
    seen = open_dataset("coloured:seen?count=100&size=32")
    assert seen.classes.names == NAMES
    for index in range(100):
        assert not set(names(seen, index)) & set(HELD_OUT)
        assert names(seen, index) == _phrases(seen[index].caption)
    assert not any((train[i].image == seen[i].image).all() for i in range(4))


def test_images_of_the_held_out_split_hold_held_out_combinations_among_others():
    dataset = open_dataset("coloured:held_out?count=200&size=48&objects=4")
    assert dataset.classes.names == NAMES
    told, others = set(), 0
    for index in range(200):
        example, own = dataset[index], names(dataset, index)
        assert own
        assert set(own) <= set(HELD_OUT)
        phrases = _phrases(example.caption)
        assert [p for p in phrases if p in HELD_OUT] == own
        others += len(phrases) - len(own)
        told |= set(own)
    assert told == set(HELD_OUT)
    assert others > 100


def test_truth_of_the_held_out_split_judges_held_out_combinations_alone():
    truth = open_dataset("coloured:held_out?count=20&size=32").coco()
    by_id = {category["id"]: category["name"] for category in truth["categories"]}
    assert len(by_id) == 36
    assert {by_id[a["category_id"]] for a in truth["annotations"]} <= set(HELD_OUT)
    assert {a["image_id"] for a in truth["annotations"]} == set(range(1, 21))


def test_an_object_has_its_colour():
    dataset = open_dataset("coloured:train?count=60&size=64&masks=1")
    means: dict[str, list] = {}
    for example in map(dataset.__getitem__, range(60)):
        for label, mask in zip(example.labels, example.masks, strict=True):
            colour = dataset.classes.names[label].split()[0]
            means.setdefault(colour, []).append(example.image[mask].astype(float).mean(0))
    red, green, blue = (np.mean(means[c], 0) for c in ("red", "green", "blue"))
    assert red[0] > red[1] + 80
    assert green[1] > green[0] + 50
    assert blue[2] > blue[0] + 80


def test_an_image_is_made_from_split_seed_and_index_alone():
    one = open_dataset("coloured:held_out?count=3&size=40&seed=4")
    more = open_dataset("coloured:held_out", count=30, seed=4, size=40)
    for index in (2, 0):
        np.testing.assert_array_equal(one[index].image, more[index].image)
    other = open_dataset("coloured:held_out?count=3&size=40&seed=5")
    assert (one[0].image != other[0].image).any()


def test_what_is_held_out_can_be_chosen():
    spec = "coloured:train?count=80&size=32&held_out=red star, blue  ring"
    dataset = open_dataset(spec)
    assert set(NAMES) - set(dataset.classes.names) == {"red star", "blue ring"}
    judged = open_dataset("coloured:held_out?count=20&size=32&held_out=red star")
    assert {name for i in range(20) for name in names(judged, i)} == {"red star"}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("coloured:val", "the splits of coloured shapes are coloured:train, coloured:seen"),
        ("coloured:train?size=4", "wrong is size"),
        ("coloured:train?held_out=red dog", "unknown combination 'red dog'"),
        ("coloured:train?held_out=", "one combination or more"),
        (
            "coloured:train?held_out=" + ",".join(f"red {shape}" for shape in SHAPES),
            "leaves nothing red to train on",
        ),
    ],
)
def test_settings_without_sense_are_refused(spec, message):
    with pytest.raises(UserError, match=message):
        open_dataset(spec)

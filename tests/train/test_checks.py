"""What settings and data must fulfil, where no run is needed to see it."""

from types import SimpleNamespace

import pytest

from jaxseg.data.classes import Classes
from jaxseg.data.transforms import (
    Chain,
    Either,
    FixedSize,
    RandomFlip,
    RandomResize,
    detr_augmentation,
)
from jaxseg.errors import UserError
from jaxseg.train.checks import FOLDERS, check_classes, check_settings
from jaxseg.train.configs import config_names
from jaxseg.train.experiment import Data, Experiment
from jaxseg.train.overrides import apply_overrides
from tests.shapes import DETECTORS


def experiment(transform):
    return Experiment(model=None, data=Data(train="", transform=transform, buckets=((64, 64),)))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("shorts=()", r"data\.transform\.shorts must have one size or more; got \(\)"),
        ("shorts=(64,-5)", r"data\.transform\.shorts must be 1 or more; got -5"),
        ("long=0", r"data\.transform\.long must be 1 or more; got 0"),
        ("crop_shorts=(0,)", r"data\.transform\.crop_shorts must be 1 or more; got 0"),
        ("crop=(-1,5)", r"data\.transform\.crop must be 1 or more; got -1"),
    ],
)
def test_sizes_of_an_augmentation_are_numbers_of_pixels(override, message):
    plain = experiment(detr_augmentation())
    check_settings(plain)
    check_settings(apply_overrides(plain, ["data.transform.long=none"]))
    with pytest.raises(UserError, match=message):
        check_settings(apply_overrides(plain, [f"data.transform.{override}"]))


def test_sizes_of_inner_parts_are_checked_too():
    inner = Chain((RandomFlip(), Either(RandomResize((0,)), FixedSize(8, 8))))
    with pytest.raises(UserError, match=r"data\.transform\.transforms\[1\]\.first\.shorts must"):
        check_settings(experiment(inner))


def categories(*triples):
    records = [{"id": id_, "name": name, "isthing": thing} for id_, name, thing in triples]
    return SimpleNamespace(classes=Classes.from_categories(records))


CAT, DOG, SKY = (1, "cat", 1), (2, "dog", 1), (5, "sky", 0)


@pytest.mark.parametrize(
    ("val", "message"),
    [
        ([CAT, DOG], "(3 and 2): only data.train has sky (id 5, stuff). Give"),
        ([CAT, DOG, SKY, (9, "x", 1)], "(3 and 4): only data.val has x (id 9). Give"),
        (
            [CAT, (3, "dog", 1), SKY],
            "(3 and 3): only data.train has dog (id 2); only data.val has dog (id 3). Give",
        ),
        (
            [CAT, DOG, (5, "sky", 1)],
            "only data.train has sky (id 5, stuff); only data.val has sky (id 5). Give",
        ),
        (
            [CAT, DOG, SKY, *((i, f"n{i}", 1) for i in range(10, 17))],
            "n10 (id 10), n11 (id 11), n12 (id 12), n13 (id 13), n14 (id 14) and 2 more. Give",
        ),
    ],
)
def test_other_categories_are_named_with_what_differs(val, message):
    train = categories(CAT, DOG, SKY)
    check_classes(train, train)
    check_classes(train, None)
    with pytest.raises(UserError) as told:
        check_classes(train, categories(*val))
    assert message in str(told.value)


def test_every_family_of_models_has_configs_to_point_at():
    families = {name.split(".")[0] for name in DETECTORS}
    folders = {name.split("/")[0] for name in config_names()}
    assert {FOLDERS.get(family, family) for family in families} <= folders

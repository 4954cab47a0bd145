import json

import pytest

from jaxseg.data.classes import COCO_91, Classes
from jaxseg.errors import UserError
from tests.data.files import shared

SPARSE = [{"id": 4, "name": "b"}, {"id": 1, "name": "a"}]


def test_contiguous_labels_follow_the_order_of_the_ids():
    classes = Classes.from_categories(SPARSE)
    assert classes.names == ("a", "b")
    assert classes.category_ids == (1, 4)
    assert classes.label_of == {1: 0, 4: 1}


def test_raw_labels_are_the_ids_and_gaps_are_holes():
    classes = Classes.from_categories(SPARSE, "raw")
    assert classes.names == ("N/A", "a", "N/A", "N/A", "b")
    assert classes.category_ids == (None, 1, None, None, 4)


def test_json_and_categories_bring_the_same_classes_back():
    classes = Classes.from_categories(SPARSE, "raw")
    assert Classes.from_json(json.loads(json.dumps(classes.to_json()))) == classes
    assert Classes.from_categories(classes.to_categories(), "raw") == classes


def test_coco_91_names_the_categories_as_coco_does():
    content = json.loads(shared("coco_ccby/instances_val.json").read_text())
    assert len(COCO_91) == 91
    assert Classes.from_categories(content["categories"], "raw") == COCO_91


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        ([], "no categories"),
        ([{"id": 1, "name": "a"}, {"id": 1, "name": "b"}], "id 1 occurs twice"),
        ([{"id": "one", "name": "a"}], "whole number"),
    ],
)
def test_categories_that_cannot_be_numbered_are_refused(categories, message):
    with pytest.raises(UserError, match=message):
        Classes.from_categories(categories)

"""Fields of COCO files as exporters really write them."""

import numpy as np
import pytest

from jaxseg.data import open_dataset
from jaxseg.errors import UserError
from jaxseg.eval.coco_ap import coco_table
from tests.data.files import box, two_images


def images(**changes):
    return [
        {"id": 7, "file_name": "wide.png", "height": 6, "width": 8, **changes},
        {"id": 3, "file_name": "high.png", "height": 8, "width": 6},
    ]


@pytest.mark.parametrize("height", [0, -6, 6.7, float("inf"), float("nan"), "six", [6], True])
def test_a_size_that_is_no_size_names_file_and_image(tmp_path, height):
    path = two_images(tmp_path, images=images(height=height))
    with pytest.raises(UserError, match=r"instances\.json: height and width .*'wide\.png'"):
        open_dataset(path)


@pytest.mark.parametrize("height", [6.0, "6", None])
def test_a_size_may_be_written_otherwise_or_left_out(tmp_path, height):
    dataset = open_dataset(two_images(tmp_path, images=images(height=height)))
    assert dataset.sizes.tolist() == [[6, 8], [8, 6]]
    assert dataset.coco()["images"][0]["height"] == 6


@pytest.mark.parametrize(
    ("written", "crowd"),
    [("0", False), ("1", True), ("false", False), (0, False), (1, True), (None, False)],
)
def test_crowds_may_be_written_as_text(tmp_path, written, crowd):
    annotations = [box(1, 7, 5, [1, 2, 3, 2], iscrowd=written)]
    dataset = open_dataset(two_images(tmp_path, annotations=annotations))
    assert dataset[0].iscrowd.tolist() == [crowd]
    assert dataset.coco()["annotations"][0]["iscrowd"] == int(crowd)


def test_ids_of_annotations_that_are_no_ids_are_numbered_anew(tmp_path):
    annotations = [box([1], 7, 5, [1, 2, 3, 2]), box(2, 3, 2, [0, 0, 6, 8])]
    annotations.append(box(3, [7], 2, [0, 0, 6, 8]))  # of no image
    truth = open_dataset(two_images(tmp_path, annotations=annotations)).coco()
    assert [a["id"] for a in truth["annotations"]] == [1, 2]


def test_evaluation_needs_neither_sizes_nor_names(tmp_path):
    bare = [{"id": i["id"], "file_name": i["file_name"]} for i in images()]
    path = two_images(tmp_path, images=bare, categories=[{"id": 5}, {"id": 2, "name": "dog"}])
    truth = open_dataset(path).coco()
    assert [(i["height"], i["width"]) for i in truth["images"]] == [(6, 8), (8, 6)]
    assert [c["name"] for c in truth["categories"]] == ["class 5", "dog"]
    found = [{"image_id": 7, "category_id": 5, "score": 0.9, "bbox": [1, 2, 3, 2]}]
    table = coco_table(truth, found)
    assert np.isclose(table.per_class["class 5"]["AP"], 1)

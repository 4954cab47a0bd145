import numpy as np
import pytest

from jaxseg.data import open_dataset
from jaxseg.data.segmentation import decode_segmentation
from jaxseg.data.shapes import SHAPES, outline
from jaxseg.errors import UserError


def test_an_image_is_made_from_seed_and_index_alone():
    one = open_dataset("synthetic:shapes?count=5&seed=4&size=40")
    more = open_dataset("synthetic:shapes", count=50, seed=4, size=40)
    for index in (4, 0, 2):
        np.testing.assert_array_equal(one[index].image, more[index].image)
        np.testing.assert_array_equal(one[index].boxes, more[index].boxes)
    other = open_dataset("synthetic:shapes", count=5, seed=5, size=40)
    assert (other[0].image != one[0].image).any()


def test_boxes_enclose_what_is_visible_and_masks_do_not_overlap():
    dataset = open_dataset("synthetic:shapes?count=30&size=64&masks=1&vary=0.3")
    counts = set()
    for index, example in enumerate(map(dataset.__getitem__, range(30))):
        assert example.size == tuple(dataset.sizes[index])
        assert example.masks.sum(0).max() <= 1
        counts.add(len(example.labels))
        for mask, box in zip(example.masks, example.boxes, strict=True):
            rows, columns = np.nonzero(mask)
            edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert box.tolist() == edges
    assert counts >= {1, 2, 3, 4, 5}


def test_objects_stand_out_from_the_ground_and_show_most_of_themselves():
    dataset = open_dataset("synthetic:shapes?count=20&size=64&masks=1")
    contrasts = []
    for example in map(dataset.__getitem__, range(20)):
        ground = example.image[~example.masks.any(0)].astype(float).mean(0)
        for mask in example.masks:
            contrasts.append(np.abs(example.image[mask].astype(float).mean(0) - ground).max())
    assert np.quantile(contrasts, 0.1) > 20
    assert min(example.area.min() for example in map(dataset.__getitem__, range(20))) > 20


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_fills_part_of_its_circle(shape):
    alpha = outline(shape, (20, 20), 18, 0.3, (40, 40))
    yy, xx = np.mgrid[:40, :40]
    outside = np.hypot(yy - 19.5, xx - 19.5) > 19.5
    assert 0.25 < alpha.sum() / (np.pi * 18**2) <= 1.02
    assert alpha[outside].max() == 0
    assert (alpha[20, 20] == 0) == (shape == "ring")


def test_ground_truth_says_the_same_as_the_examples():
    dataset = open_dataset("synthetic:shapes?count=3&size=40&masks=1")
    truth = dataset.coco()
    assert [c["name"] for c in truth["categories"]] == list(SHAPES)
    assert [i["id"] for i in truth["images"]] == list(dataset.image_ids) == [1, 2, 3]
    for example in map(dataset.__getitem__, range(3)):
        own = [a for a in truth["annotations"] if a["image_id"] == example.image_id]
        x, y, w, h = np.asarray([a["bbox"] for a in own]).T
        np.testing.assert_array_equal(np.stack([x, y, x + w, y + h], -1), example.boxes)
        for annotation, label, mask in zip(own, example.labels, example.masks, strict=True):
            assert dataset.classes.category_ids[label] == annotation["category_id"]
            decoded = decode_segmentation(annotation["segmentation"], *example.size)
            np.testing.assert_array_equal(decoded, mask)


def test_captions_name_the_shapes():
    dataset = open_dataset("synthetic:shapes?count=20&size=40")
    for example in map(dataset.__getitem__, range(20)):
        named = example.caption.replace(" and ", ", ").split(", ")
        assert [phrase.split()[-1] for phrase in named] == [
            dataset.classes.names[label] for label in example.labels
        ]


@pytest.mark.parametrize("spec", ["synthetic:cats", "synthetic:shapes?size=4", "synthetic:"])
def test_settings_without_sense_are_refused(spec):
    with pytest.raises(UserError, match="synthetic:shapes"):
        open_dataset(spec)


def test_fewer_classes_are_the_first_shapes():
    dataset = open_dataset("synthetic:shapes?count=30&size=48&classes=2")
    assert dataset.classes.names == ("circle", "square")
    assert {int(label) for example in dataset for label in example.labels} == {0, 1}

"""Grounded-SAM: the detector's boxes, drawn as Segment Anything alone would draw them."""

import copy
from dataclasses import replace

import jax
import numpy as np
import pytest

from jaxseg.errors import UserError
from jaxseg.predict import GroundedDetector, GroundedSegmenter, SamPredictor
from jaxseg.predict.result import NotFinite
from tests.predict.small_sam import save_small, small_sam
from tests.predict.small_words import CONFIG, save_words, small_words

TEXT = ["hot dog", "zebra"]
RNG = np.random.default_rng(3)
IMAGES = [RNG.integers(0, 256, (*size, 3), np.uint8) for size in [(48, 64), (64, 90), (40, 60)]]


@pytest.fixture(scope="module")
def segmenter():
    detector = GroundedDetector(*small_words(), CONFIG, buckets=[(64, 96)], batch_size=2)
    return GroundedSegmenter(detector, SamPredictor(*small_sam()))


def with_boxes(segmenter, boxes):
    """What is drawn for boxes that the detector is said to have found in the first image."""
    found = segmenter.detector(IMAGES[0], TEXT, 0.0).take(np.arange(len(boxes)))
    found = replace(found, boxes=np.asarray(boxes, np.float32))
    told = copy.copy(segmenter)
    told.detector = copy.copy(segmenter.detector)
    told.detector.detect = lambda prepared, *_: [found for _ in prepared]
    return told


def test_masks_are_those_that_segment_anything_answers_for_the_boxes(segmenter):
    answers = segmenter(IMAGES, TEXT, 0.3)
    for image, found, boxes in zip(
        IMAGES, answers, segmenter.detector(IMAGES, TEXT, 0.3), strict=True
    ):
        assert len(found) > 2
        assert found.masks.shape == (len(found), *image.shape[:2])
        assert found.masks.dtype == bool
        np.testing.assert_array_equal(found.boxes, boxes.boxes)
        assert (found.names, found.text_labels) == (boxes.names, boxes.text_labels)
        segmenter.predictor.set_image(image)
        for box, mask in zip(found.boxes, found.masks, strict=True):
            alone = segmenter.predictor.predict(box=box, multimask_output=False)
            # A pixel whose logit is next to nothing may fall either way.
            assert np.mean(alone.masks[0] != mask) < 2e-3


def test_one_image_is_answered_as_in_a_list(segmenter):
    one, several = segmenter(IMAGES[1], TEXT, 0.3), segmenter(IMAGES, TEXT, 0.3)[1]
    np.testing.assert_allclose(one.boxes, several.boxes, atol=1e-2)
    assert np.mean(one.masks != several.masks) < 2e-3


def test_nothing_found_is_no_mask(segmenter):
    for found in segmenter(IMAGES, TEXT, 1.0):
        assert found.masks.shape == (0, *found.size)
        assert found.to_dict()["objects"] == []
    assert segmenter([], TEXT) == []


def test_a_box_beyond_the_image_has_an_empty_mask_and_the_others_theirs(segmenter):
    boxes = [[5, 5, 40, 40], [70, 5, 90, 20], [-9, -9, 30, 30], [8, 50, 20, 60], [9, 9, 9, 20]]
    found = with_boxes(segmenter, boxes)(IMAGES[0], TEXT)
    assert not found.masks[[1, 3, 4]].any()
    segmenter.predictor.set_image(IMAGES[0])
    for i in (0, 2):
        alone = segmenter.predictor.predict(box=np.asarray(boxes[i]), multimask_output=False)
        assert np.mean(alone.masks[0] != found.masks[i]) < 2e-3
    assert found.masks[[0, 2]].any()


def test_of_boxes_that_overlap_only_the_surest_is_drawn(segmenter):
    told = copy.copy(segmenter)
    told.detector = copy.copy(segmenter.detector)
    told.detector.nms_iou = 0.01
    plain, few = (x.detector(IMAGES, TEXT, 0.3) for x in (segmenter, told))
    assert sum(map(len, few)) < sum(map(len, plain))
    for wanted, found in zip(few, told(IMAGES, TEXT, 0.3), strict=True):
        assert len(found.masks) == len(wanted) > 0
        np.testing.assert_array_equal(found.boxes, wanted.boxes)


def test_images_are_held_a_few_at_a_time(segmenter, monkeypatch):
    read, most = [], []
    told = with_boxes(segmenter, [[5, 5, 40, 40]])
    whole = told.detector.detect

    def detect(prepared, *args):
        most.append(len(prepared))
        return whole(prepared, *args)

    told.detector.detect = detect
    both = segmenter.prepare(IMAGES[0])
    found = told.detect((read.append(i) or both for i in range(19)), TEXT)
    assert (len(found), len(read), most) == (19, 19, [8, 8, 3])


def test_damaged_weights_of_segment_anything_are_reported(segmenter):
    damaged = copy.copy(segmenter)
    damaged.predictor = copy.copy(segmenter.predictor)
    damaged.predictor.params = jax.tree.map(lambda x: x * np.nan, segmenter.predictor.params)
    with pytest.warns(NotFinite, match="detections are not finite"):
        damaged(IMAGES[0], TEXT, 0.3)


def test_both_weights_are_loaded(tmp_path):
    words, sam = save_words(tmp_path / "words"), save_small(tmp_path / "sam")
    loaded = GroundedSegmenter.from_pretrained(words, sam, nms_iou=0.5, batch_size=3)
    assert (loaded.detector.nms_iou, loaded.batch_size) == (0.5, 3)
    with pytest.raises(UserError, match="words need a Grounding DINO; got a Sam"):
        GroundedSegmenter.from_pretrained(sam, words, vocabulary=words / "vocab.txt")

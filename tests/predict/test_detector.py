"""The detector's promises: one answer per image, whatever its canvas, batch and neighbours."""

import copy
import importlib
import json
import sys
import tracemalloc
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxseg.data.classes import COCO_91, Classes
from jaxseg.errors import UserError
from jaxseg.ops.images import normalize
from jaxseg.predict import Detector
from jaxseg.predict.detector import Answer, label_names
from jaxseg.predict.preprocess import resize, resized_size
from jaxseg.predict.result import NotFinite, best_first
from jaxseg.structures import Images
from tests.predict import supervision_stub
from tests.predict.tiny import CLASSES, CONFIG, tiny_detr

BUCKETS = [(64, 128), (128, 64)]
RNG = np.random.default_rng(3)
SIZES = [(48, 64), (90, 60), (50, 51), (200, 300), (48, 64), (1, 40), (30, 90), (64, 64)]
IMAGES = [RNG.integers(0, 256, (*size, 3), np.uint8) for size in SIZES]


@pytest.fixture(scope="module")
def weights():
    return tiny_detr()


@pytest.fixture(scope="module")
def detector(weights):
    return Detector(*weights, CLASSES, CONFIG, buckets=BUCKETS)


@pytest.fixture(scope="module")
def batched(weights):
    return Detector(*weights, CLASSES, CONFIG, buckets=BUCKETS, batch_size=3)


def assert_same(a, b):
    assert a.size == b.size
    np.testing.assert_allclose(a.scores, b.scores, atol=1e-5)
    # Order among near-equal scores may differ: compare by box.
    order_a, order_b = np.lexsort(a.boxes.round(2).T), np.lexsort(b.boxes.round(2).T)
    np.testing.assert_allclose(a.boxes[order_a], b.boxes[order_b], atol=2e-3)
    np.testing.assert_array_equal(a.labels[order_a], b.labels[order_b])


def test_an_image_alone_in_a_batch_and_on_a_larger_canvas_has_the_same_boxes(
    weights, detector, batched
):
    alone = [detector(image, 0.0) for image in IMAGES]
    assert len({len(prediction) for prediction in alone}) == 1  # all twelve queries
    assert np.ptp(alone[0].boxes[:, 0]) > 5, "the boxes must differ for the test to mean anything"
    together = batched(IMAGES, 0.0)
    larger = Detector(*weights, CLASSES, CONFIG, batch_size=2, buckets=[(128, 160)])(IMAGES, 0.0)
    for one, two, three in zip(alone, together, larger, strict=True):
        assert_same(one, two)
        assert_same(one, three)


def test_the_boxes_are_the_originals_without_padding(weights, detector):
    model, params = weights
    image, size = IMAGES[0], (64, 85)  # 48 x 64 by the rule; no multiple of the stride
    assert resized_size(SIZES[0], 64, 107) == size
    pixels = jnp.asarray(resize(image, size))[None]
    images = normalize(Images(pixels, jnp.ones((1, *size), bool)))
    original = model.clone(canvas="padded")
    output = jax.jit(lambda p: original.apply({"params": p}, images))(params)
    found = original.detections(output, jnp.asarray([SIZES[0]]))
    ours = detector(image, 0.0)
    order = np.argsort(-found.scores[0], stable=True)
    np.testing.assert_allclose(ours.scores, found.scores[0][order], atol=1e-5)
    np.testing.assert_allclose(ours.boxes, found.boxes[0][order], atol=2e-3)


def test_a_padded_model_is_made_canvas_exact(weights, detector):
    model, params = weights
    assert model.clone(canvas="padded") != detector.model
    assert Detector(model.clone(canvas="padded"), params, CLASSES, CONFIG).model == detector.model


def test_answers_come_in_the_order_of_the_images(batched):
    answers = batched([*IMAGES, *IMAGES[::-1]], 0.0)
    assert [answer.size for answer in answers] == [*SIZES, *SIZES[::-1]]
    for forth, back in zip(answers[: len(IMAGES)], answers[: len(IMAGES) - 1 : -1], strict=True):
        assert_same(forth, back)


def test_any_sizes_compile_once_for_each_canvas(batched):
    compiled = []

    def listen(event: str, _: float, **__) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    batched(IMAGES[:2])
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        for count in (1, 2, 3, len(IMAGES)):
            batched(IMAGES[:count])
        batched([RNG.integers(0, 256, (7 * i, 5 + i, 3), np.uint8) for i in range(1, 30, 4)])
        assert not compiled
        jax.jit(lambda x: x * 3)(2.5)
        assert compiled, "the listener must hear compilations for the test to mean anything"
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_boxes_are_in_pixels_of_the_given_image_the_surest_first(detector):
    prediction = detector(IMAGES[3], 0.0)
    assert (np.diff(prediction.scores) <= 0).all()
    assert prediction.boxes[:, 2].max() > 107, "boxes of the resized image would end before"
    height, width = SIZES[3]
    clipped = prediction.clipped()
    assert clipped.min() >= 0
    assert clipped[:, [0, 2]].max() <= width
    assert clipped[:, [1, 3]].max() <= height


def test_the_threshold_leaves_the_sure_ones(detector):
    everything = detector(IMAGES[0], 0.0)
    cut = float(np.median(everything.scores))
    some = detector(IMAGES[0], cut)
    np.testing.assert_array_equal(some.scores, everything.scores[everything.scores >= cut])
    assert len(detector(IMAGES[0], 1.0)) == 0


def test_files_pictures_and_arrays_answer_alike(tmp_path, detector):
    Image.fromarray(IMAGES[0]).save(tmp_path / "image.png")
    expected = detector(IMAGES[0], 0.0)
    pictures = [tmp_path / "image.png", str(tmp_path / "image.png"), Image.fromarray(IMAGES[0]),
                IMAGES[0] / np.float32(255), jax.numpy.asarray(IMAGES[0])]  # fmt: skip
    for prediction in detector(pictures, 0.0):
        np.testing.assert_array_equal(prediction.boxes, expected.boxes)


def test_no_images_give_no_answers(detector):
    assert detector([]) == []


def test_holes_of_a_numbering_are_never_reported(detector):
    everything = detector(IMAGES[0], 0.0)
    hole = everything.labels[0]
    ids = [None if label == hole else label for label in range(5)]
    numbered = copy.copy(detector)
    numbered._names = label_names(Classes(CLASSES.names, tuple(ids)), 5)
    rest = numbered(IMAGES[0], 0.0)
    np.testing.assert_array_equal(rest.labels, everything.labels[everything.labels != hole])
    assert label_names(COCO_91, 91)[:2] == (None, "person")
    assert label_names(None, 2) == ("class 0", "class 1")


def test_a_wrong_number_of_names_is_refused(weights):
    with pytest.raises(UserError, match="5 classes apart, but 2"):
        Detector(*weights, Classes.from_names(["a", "b"]), CONFIG)


def test_damaged_weights_are_reported(detector):
    damaged = copy.copy(detector)
    damaged.params = jax.tree.map(lambda x: x * jnp.nan, detector.params)
    with pytest.warns(NotFinite, match="12 of 12 detections are not finite"):
        assert len(damaged(IMAGES[0])) == 0


@pytest.mark.parametrize("part", ["boxes", "scores"])
def test_only_detections_that_are_not_finite_are_left_out(part):
    arrays = {
        "boxes": np.ones((3, 4), np.float32),
        "scores": np.asarray([0.5, 0.7, 0.6], np.float32),
        "labels": np.zeros(3, np.int32),
    }
    arrays[part][1] = np.nan
    with pytest.warns(NotFinite, match="1 of 3"):
        found = best_first(**arrays, names=["a"], size=(9, 9), threshold=0.0)
    np.testing.assert_allclose(found.scores, [0.6, 0.5])


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_of_none_is_refused(weights, batch_size):
    with pytest.raises(UserError, match=f"batch_size must be 1 or more; got {batch_size}"):
        Detector(*weights, CLASSES, CONFIG, batch_size=batch_size)


@pytest.mark.parametrize("threshold", [7, -0.1, float("nan")])
def test_a_threshold_that_is_no_share_is_refused(detector, threshold):
    with pytest.raises(UserError, match=rf"threshold must lie in \[0, 1\]; got {threshold}"):
        detector([], threshold)


def test_a_list_is_not_held_in_memory(detector, monkeypatch):
    large = np.zeros((1500, 2000, 3), np.uint8)  # 9 MB, 20 kB as the model sees it
    empty = Answer(*[np.zeros((1, 0))] * 3, None)
    monkeypatch.setattr(detector, "_detect", lambda params, canvases, sizes: empty)
    monkeypatch.setattr("jaxseg.predict.detector.best_first", lambda *_, **__: None)
    tracemalloc.start()
    try:
        detector.detect(detector.prepare(Image.fromarray(large)) for _ in range(4))
        alone = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        assert len(detector([Image.fromarray(large)] * 12)) == 12
        assert tracemalloc.get_traced_memory()[1] < 1.5 * alone
    finally:
        tracemalloc.stop()


def test_an_answer_becomes_json(detector):
    prediction = detector(IMAGES[0], 0.0)
    content = json.loads(prediction.to_json())
    assert (content["height"], content["width"]) == SIZES[0]
    assert len(content["objects"]) == len(prediction)
    first = content["objects"][0]
    assert first["name"] == CLASSES.names[first["label"]]
    np.testing.assert_allclose(first["box"], prediction.boxes[0], atol=0.006)


@pytest.fixture
def supervision(monkeypatch):
    """The package itself where it is installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that it works without OpenCV
        try:
            return importlib.import_module("supervision")
        except ImportError:
            monkeypatch.setitem(sys.modules, "supervision", supervision_stub)
            return supervision_stub


def test_an_answer_becomes_supervisions_detections(detector, supervision):
    prediction = detector(IMAGES[0], 0.0)
    detections = prediction.to_supervision()
    assert isinstance(detections, supervision.Detections)
    np.testing.assert_array_equal(detections.xyxy, prediction.boxes)
    np.testing.assert_array_equal(detections.confidence, prediction.scores)
    np.testing.assert_array_equal(detections.class_id, prediction.labels)
    assert list(detections["class_name"]) == list(prediction.names)
    assert len(detector(IMAGES[0], 1.0).to_supervision()) == 0


def test_without_supervision_the_pip_line_is_told(detector, monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match=r"pip install -e '\.\[supervision\]'"):
        detector(IMAGES[0], 0.0).to_supervision()

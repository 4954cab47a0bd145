"""The promises of the detector that is told what to find."""

import copy
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.errors import UserError
from jaxseg.ops.nms import nms
from jaxseg.predict import GroundedDetector
from jaxseg.predict.grounded_result import Finder, Row
from jaxseg.predict.phrases import Pass, Wanted, plan
from jaxseg.predict.result import NotFinite
from jaxseg.text.spans import phrase_of
from tests.predict.small_words import CONFIG, save_words, small_words, vocabulary
from tests.predict.tiny import tiny_detr

CAPTION = "hot dog. a cat. zebra."
SIZES = [(48, 64), (64, 90), (40, 60), (200, 300), (48, 64), (1, 40), (64, 64)]
RNG = np.random.default_rng(3)
IMAGES = [RNG.integers(0, 256, (*size, 3), np.uint8) for size in SIZES]


@pytest.fixture(scope="module")
def weights():
    return small_words()


@pytest.fixture(scope="module")
def tokenizer(weights):
    return weights[2]


@pytest.fixture(scope="module")
def detector(weights):
    return GroundedDetector(*weights, CONFIG, buckets=[(64, 96)], length=32)


@pytest.fixture(scope="module")
def batched(weights):
    return GroundedDetector(*weights, CONFIG, buckets=[(96, 128)], batch_size=3, length=32)


def assert_same(a, b):
    assert (a.size, a.phrases, len(a)) == (b.size, b.phrases, len(b))
    # Order among near-equal scores may differ: compare by box.
    rows = [np.lexsort(x.boxes.round(1).T) for x in (a, b)]
    one, two = (x.take(row) for x, row in zip((a, b), rows, strict=True))
    np.testing.assert_allclose(one.boxes, two.boxes, atol=2e-2)
    np.testing.assert_allclose(one.scores, two.scores, atol=1e-4)
    np.testing.assert_allclose(one.phrase_scores, two.phrase_scores, atol=1e-4)
    assert (one.names, one.text_labels) == (two.names, two.text_labels)


def test_an_image_alone_in_a_batch_and_on_a_larger_canvas_has_the_same_answer(detector, batched):
    alone = [detector(image, CAPTION, 0.3) for image in IMAGES]
    assert min(map(len, alone)) > 2
    assert np.ptp(alone[0].boxes[:, 0]) > 5, "the boxes must differ for the test to mean anything"
    assert len({name for found in alone for name in found.names}) > 1
    for one, two in zip(alone, batched(IMAGES, CAPTION, 0.3), strict=True):
        assert_same(one, two)
    for one, two in zip(alone[::-1], batched(IMAGES[::-1], CAPTION, 0.3), strict=True):
        assert_same(one, two)


def test_one_program_serves_any_number_of_images_and_any_short_caption(batched):
    compiled = []

    def listen(event: str, _: float, **__) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    batched(IMAGES[:3], CAPTION)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        for count in (1, 2, 3, len(IMAGES)):
            batched(IMAGES[:count], ["tree", "traffic light"][: 1 + count % 2])
        assert not compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_a_caption_finds_what_its_phrases_as_names_find(detector):
    caption, names = detector(IMAGES[0], CAPTION, 0.3), ["hot dog", "a cat", "zebra"]
    assert caption.phrases == tuple(names)
    assert_same(caption, detector(IMAGES[0], names, 0.3))


def test_letters_spaces_and_stops_of_names_change_nothing(detector):
    plain = detector(IMAGES[0], ["a cat", "hot dog"], 0.3)
    odd = detector(IMAGES[0], ["A Cat.", " hot \n dog . "], 0.3)
    assert odd.phrases == ("A Cat", "hot dog")
    np.testing.assert_array_equal(odd.boxes, plain.boxes)
    np.testing.assert_array_equal(odd.phrase_scores, plain.phrase_scores)


NAMES = [
    "person", "traffic light", "fire hydrant", "parking meter", "zebra crossing", "teddy bear",
    "hair drier", "hot dog", "dog", "wine glass", "tennis racket", "potted plant", "sports ball",
]  # fmt: skip


def test_names_beyond_the_models_length_are_found_in_several_passes(detector, tokenizer):
    wanted = plan(NAMES, tokenizer, 32)
    assert len(wanted.passes) == 2
    assert max(len(one.ids) for one in wanted.passes) <= 32
    together = detector(IMAGES[1], NAMES, 0.0)
    assert len(together) == 24
    assert (np.diff(together.scores) <= 0).all()
    for one in wanted.passes:
        names = [NAMES[label] for label in one.labels]
        alone = detector(IMAGES[1], names, 0.0)
        of_pass = together.phrase_scores[:, one.labels].any(-1)
        own = together.take(np.flatnonzero(of_pass))
        np.testing.assert_allclose(own.boxes, alone.boxes, atol=2e-2)
        np.testing.assert_allclose(own.phrase_scores[:, one.labels], alone.phrase_scores, atol=1e-4)
        assert own.names == alone.names
        assert [NAMES[label] for label in own.labels] == list(alone.names)


def test_three_hundred_names_are_each_in_one_pass_that_the_model_can_read(tokenizer):
    names = [f"{word} number {i}" for i in range(100) for word in ("dog", "hot dog", "stop sign")]
    wanted = plan(names, tokenizer)
    assert wanted.phrases == tuple(names)
    labels = np.concatenate([one.labels for one in wanted.passes])
    np.testing.assert_array_equal(labels, range(300))
    assert max(len(one.ids) for one in wanted.passes) <= 256
    assert min(len(one.ids) for one in wanted.passes[:-1]) > 240
    for one in wanted.passes:
        for label, tokens in zip(one.labels, one.tokens, strict=True):
            assert tokenizer.decode(one.ids[tokens]) == names[label]


def test_a_caption_that_is_too_long_is_divided_between_its_phrases(tokenizer):
    phrases = [f"thing number {i}" for i in range(90)]
    wanted = plan(". ".join(phrases), tokenizer)
    assert wanted.phrases == tuple(phrases)
    assert len(wanted.passes) == 2
    np.testing.assert_array_equal(np.concatenate([x.labels for x in wanted.passes]), range(90))


def test_a_phrase_has_its_own_tokens_and_not_those_of_a_longer_one(tokenizer):
    (one,) = plan(["dog", "hot dog"], tokenizer).passes
    assert one.caption == "dog. hot dog."
    #                    [CLS] dog  .  hot dog  .  [SEP]
    np.testing.assert_array_equal(one.tokens, [[0, 1, 0, 0, 0, 0, 0], [0, 0, 0, 1, 1, 0, 0]])


def test_a_caption_that_repeats_a_phrase_has_it_once(tokenizer):
    wanted = plan("Cat. dog? cat", tokenizer)
    assert wanted.phrases == ("cat", "dog")
    (one,) = wanted.passes
    assert one.caption == "cat. dog? cat."
    np.testing.assert_array_equal(one.tokens, [[0, 1, 0, 0, 0, 1, 0, 0], [0, 0, 0, 1, 0, 0, 0, 0]])


def test_a_name_that_stands_twice_has_its_first_place_as_label(detector, tokenizer):
    wanted = plan(["cat", "dog", "Cat"], tokenizer)
    assert wanted.phrases == ("cat", "dog", "Cat")
    assert [list(one.labels) for one in wanted.passes] == [[0, 1]]
    found = detector(IMAGES[0], ["cat", "dog", "Cat"], 0.3)
    assert set(found.labels) <= {0, 1}
    assert not found.phrase_scores[:, 2].any()
    np.testing.assert_array_equal(found.boxes, detector(IMAGES[0], "cat. dog.", 0.3).boxes)


@pytest.mark.parametrize(
    "name", ["Ärger", "İstanbul", "猫", "🐈", "who?", "what? a dog", "U.S. flag", "don't walk"]
)
def test_unicode_and_marks_are_names_like_others(name, tokenizer):
    wanted = plan(["cat", name, "dog"], tokenizer)
    assert wanted.phrases == ("cat", name, "dog")
    (one,) = wanted.passes
    assert one.tokens.any(-1).all()
    assert not one.tokens[1][one.tokens[[0, 2]].any(0)].any()
    assert tokenizer.decode(one.ids[one.tokens[2]]) == "dog"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the caption must name something, as 'cat. dog.'; got ''"),
        (" . ?. ", "the caption must name something"),
        ([], "name at least one thing to look for; got an empty list"),
        (["cat", " "], "name 1 to look for must be a word or more; got ' '"),
        (["cat", None], "name 1 to look for must be a word or more; got None"),
        (["cat", "?."], "name 1 to look for must be a word or more; got '\\?.'"),
        (["cat", "very " * 260], "has 261 tokens with its full stop, and the model reads 254"),
        (". ".join(["cat", "very " * 260]), "has 261 tokens with its full stop"),
        (["cat", "\u200b"], "can read nothing of the name '\\\\u200b': say it in words"),
        ("cat. \u200b.", "the model can read nothing of '\\\\u200b'"),
    ],
)
def test_texts_that_name_nothing_are_refused(text, message, tokenizer):
    with pytest.raises(UserError, match=message):
        plan(text, tokenizer)


def test_a_grid_is_every_text_in_every_image_and_each_its_own(detector, batched):
    images, texts = IMAGES[:2], ["cat. dog.", ["person", "stop sign"]]
    grid = batched.grid(images, texts, 0.3)
    each = batched.each(images, texts, 0.3)
    for i, image in enumerate(images):
        for j, text in enumerate(texts):
            assert_same(grid[i][j], detector(image, text, 0.3))
        assert_same(each[i], grid[i][i])
    with pytest.raises(UserError, match="every image needs a text; got 2 and 1"):
        batched.each(images, texts[:1])


def made_up(tokenizer, probabilities, boxes=None, **options):
    """A prediction from probabilities that are written out: "cat. hot dog." has 7 tokens."""
    rows = np.asarray(probabilities, np.float32)
    boxes = np.arange(4 * len(rows), dtype=np.float32).reshape(-1, 4) if boxes is None else boxes
    finder = Finder(tokenizer, 0.35, 0.25, options.pop("remove_combined", False))
    wanted = plan("cat. hot dog.", tokenizer)
    return finder.predict(wanted, [Row(rows, np.asarray(boxes, np.float32))], (9, 9))


def test_names_scores_and_words_are_those_computed_by_hand(tokenizer):
    #        [CLS] cat   .    hot  dog   .   [SEP]
    found = made_up(
        tokenizer,
        [
            [0.00, 0.30, 0.0, 0.20, 0.5, 0.0, 0.0],
            [0.00, 0.80, 0.0, 0.05, 0.1, 0.0, 0.0],
            [0.99, 0.00, 0.0, 0.30, 0.1, 0.9, 0.0],
            [0.00, 0.35, 0.0, 0.35, 0.2, 0.0, 0.0],
        ],
    )
    np.testing.assert_allclose(found.scores, [0.99, 0.8, 0.5])  # 0.35 is not above 0.35
    assert found.names == ("hot dog", "cat", "hot dog")
    np.testing.assert_array_equal(found.labels, [1, 0, 1])
    np.testing.assert_allclose(
        found.phrase_scores, [[0, 0.2], [0.8, 0.075], [0.3, 0.35]], atol=1e-6
    )
    assert found.text_labels == ("hot", "cat", "cat dog")
    np.testing.assert_array_equal(found.boxes[1], [4, 5, 6, 7])
    record = json.loads(found.to_json())["objects"][2]
    assert (record["name"], record["text"], record["label"]) == ("hot dog", "cat dog", 1)


def test_combined_words_are_left_out_on_request(tokenizer):
    row = [[0.0, 0.6, 0.0, 0.5, 0.4, 0.0, 0.0]]
    assert made_up(tokenizer, row).text_labels == ("cat hot dog",)
    assert made_up(tokenizer, row, remove_combined=True).text_labels == ("cat",)


def test_the_words_of_an_object_are_those_of_the_originals_demo(detector, tokenizer):
    found = detector(IMAGES[0], CAPTION, 0.3, 0.4)
    (one,) = plan(CAPTION, tokenizer).passes
    prepared = detector.prepare(IMAGES[0])
    (row,) = detector._rows([(0, prepared)], (64, 96), [[plan(CAPTION, tokenizer)]])
    best = np.argsort(-row.probabilities.max(-1), kind="stable")[: len(found)]
    said = [phrase_of(tokenizer, one.ids, row.probabilities[i], 0.4) for i in best]
    assert list(found.text_labels) == said


def test_an_object_is_of_a_phrase_of_its_own_pass(tokenizer):
    """Also where all of them have no probability that a float could hold."""
    ids, none = np.asarray([101, 4937, 1012, 102]), np.zeros((1, 4), np.float32)
    tokens, named = np.asarray([[False, True, False, False]]), np.eye(4)[2:3]
    passes = tuple(Pass("cat.", ids, np.asarray([i]), tokens) for i in range(2))
    rows = [Row(none, none), Row(named.astype(np.float32), none)]
    found = Finder(tokenizer, 0.35, 0.25, False).predict(Wanted(("a", "b"), passes), rows, (9, 9))
    assert found.names == ("b",)


def test_nothing_found_is_an_empty_prediction(detector):
    found = detector(IMAGES[0], CAPTION, 1.0)
    assert len(found) == 0
    assert found.boxes.shape == (0, 4)
    assert found.phrase_scores.shape == (0, 3)
    assert found.to_dict() == {"width": 64, "height": 48, "objects": []}
    assert detector([], CAPTION) == []


def test_some_objects_are_taken_by_their_places(detector):
    found = detector(IMAGES[0], CAPTION, 0.3)
    some = found.take(np.asarray([2, 0]))
    assert some.names == (found.names[2], found.names[0])
    assert some.text_labels == (found.text_labels[2], found.text_labels[0])
    np.testing.assert_array_equal(some.boxes, found.boxes[[2, 0]])
    np.testing.assert_array_equal(some.phrase_scores, found.phrase_scores[[2, 0]])


def test_only_objects_that_are_not_finite_are_left_out(tokenizer):
    rows = np.full((3, 7), 0.5)
    rows[1, 2] = np.nan
    boxes = np.ones((3, 4))
    boxes[2, 0] = np.inf
    with pytest.warns(NotFinite, match="2 of 3 detections are not finite"):
        found = made_up(tokenizer, rows, boxes)
    assert len(found) == 1


def test_damaged_weights_are_reported(detector):
    damaged = copy.copy(detector)
    damaged.params = jax.tree.map(lambda x: x * np.nan, detector.params)
    with pytest.warns(NotFinite, match="12 of 12 detections are not finite"):
        assert len(damaged(IMAGES[0], CAPTION)) == 0


def told(detector, monkeypatch, boxes, scores):
    """The detector, as if the model's queries were so sure that these boxes are cats."""
    rows = np.zeros((len(boxes), 4), np.float32)  # [CLS] cat . [SEP]
    rows[:, 1] = scores
    told = copy.copy(detector)
    answer = Row(rows, np.asarray(boxes, np.float32))
    monkeypatch.setattr(told, "_rows", lambda group, *_: iter([answer] * len(group)))
    return told


def test_of_boxes_that_overlap_the_surest_stays_whatever_they_are_called(detector, monkeypatch):
    boxes = [[0, 0, 20, 20], [0, 0, 20, 18], [0, 0, 20, 9], [40, 0, 60, 20], [41, 0, 60, 20]]
    found = told(detector, monkeypatch, boxes, [0.9, 0.8, 0.7, 0.6, 0.5])
    assert len(found(IMAGES[0], "cat.")) == 5
    for iou, kept in ((0.8, [0, 2, 3]), (0.4, [0, 3]), (1.0, [0, 1, 2, 3, 4])):
        found.nms_iou = iou
        for one in found(IMAGES[:2], "cat."):
            np.testing.assert_array_equal(one.boxes, np.asarray(boxes, np.float32)[kept])
            assert len(one.names) == len(one.text_labels) == len(kept)


def test_boxes_of_different_names_and_passes_suppress_each_other(detector, weights):
    plain = detector(IMAGES[1], NAMES, 0.0)
    few = GroundedDetector(*weights, CONFIG, buckets=[(64, 96)], length=32, nms_iou=0.01)
    found = few(IMAGES[1], NAMES, 0.0)
    keep = np.asarray(nms(jnp.asarray(plain.boxes), jnp.asarray(plain.scores), 0.01))
    assert 1 < keep.sum() < len(plain)
    np.testing.assert_allclose(found.boxes, plain.boxes[keep], atol=1e-4)
    assert len(few(IMAGES[1], NAMES, 1.0)) == 0


@pytest.mark.parametrize("iou", [7, -0.1, float("nan")])
def test_an_overlap_that_is_no_share_is_refused(weights, iou):
    with pytest.raises(UserError, match=r"nms_iou must lie in \[0, 1\]"):
        GroundedDetector(*weights, CONFIG, nms_iou=iou)


@pytest.mark.parametrize("option", ["box_threshold", "text_threshold"])
def test_a_threshold_that_is_no_share_is_refused(detector, option):
    with pytest.raises(UserError, match=rf"{option} must lie in \[0, 1\]; got 7"):
        detector(IMAGES[0], CAPTION, **{option: 7})


def test_what_is_no_grounding_dino_or_another_vocabulary_is_refused(weights):
    model, params, tokenizer = weights
    with pytest.raises(UserError, match="words need a Grounding DINO; got a Detr"):
        GroundedDetector(*tiny_detr(), tokenizer, CONFIG)
    few = model.clone(bert=model.bert.clone(vocabulary=999))
    with pytest.raises(UserError, match="has 30522 pieces and the model knows 999"):
        GroundedDetector(few, params, tokenizer, CONFIG)


def test_weights_bring_their_vocabulary_or_are_given_one(detector, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = save_words(tmp_path / "words")
    loaded = GroundedDetector.from_pretrained(folder, buckets=[(64, 96)])
    assert loaded.tokenizer.length == 30522
    assert loaded.image == CONFIG
    (folder / "vocab.txt").unlink()
    assert GroundedDetector.from_pretrained(folder, vocabulary=vocabulary()).tokenizer.length
    monkeypatch.setattr(
        "jaxseg.pretrained.load_tokenizer", lambda name: (_ for _ in ()).throw(UserError(name))
    )
    with pytest.raises(UserError, match="the weights hold no vocabulary"):
        GroundedDetector.from_pretrained(folder)

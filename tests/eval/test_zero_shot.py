"""`jaxseg eval` of weights that are told the data set's classes."""

import json

import numpy as np
import pytest
from PIL import Image

from jaxseg import cli
from jaxseg.checkpoints import from_pretrained, save_pretrained
from jaxseg.data.captions import ask_classes
from jaxseg.data.classes import Classes
from jaxseg.errors import UserError
from jaxseg.predict import GroundedDetector
from tests.eval.told import evaluate, save_coco
from tests.predict.small_words import FIELDS, NAME, save_words, small_words, vocabulary
from tests.predict.tiny import save_tiny

ODD = ["T-shirt", "dog (toy)", "traffic_light", "Dog"]


def asked_as(tokenizer, classes: list[str], **options) -> tuple[list[str], list[str]]:
    """The words of each class's tokens, and the captions."""
    known = Classes.from_categories([{"id": i, "name": n} for i, n in enumerate(classes, 1)])
    prompts, ids = ask_classes(known, tokenizer, 256, **options)
    assert ids == tuple(range(1, len(classes) + 1))
    captions = [
        tokenizer.decode(row[mask][1:-1])
        for row, mask in zip(prompts.captions.ids, prompts.captions.mask, strict=True)
    ]
    every = zip(prompts.captions.ids, prompts.tokens, strict=True)
    words = [[tokenizer.decode(ids[own]) for own in named] for ids, named in every]
    return ["".join(own) for own in zip(*words, strict=True)], captions


def test_names_with_punctuation_are_asked_for_by_all_their_words(tokenizer):
    words, captions = asked_as(tokenizer, ODD)
    assert words == ["t - shirt", "dog", "traffic light", "dog"]
    assert captions == ["t - shirt. dog. traffic light. dog."]


def test_names_at_once_make_several_captions(tokenizer):
    words, captions = asked_as(tokenizer, ODD, at_once=3)
    assert words == ["t - shirt", "dog", "traffic light", "dog"]
    assert captions == ["t - shirt. dog. traffic light.", "dog."]


def test_other_names_take_the_place_of_the_classes_own(tokenizer):
    words, _ = asked_as(tokenizer, ODD, names={"Dog": "puppy of any age", "T-shirt": "tee"})
    assert words == ["tee", "dog", "traffic light", "puppy of any age"]
    with pytest.raises(UserError, match=r"no class 'cat' that could be asked for .* 'T-shirt'"):
        asked_as(tokenizer, ODD, names={"cat": "kitten"})


def test_two_classes_of_one_tidied_name_are_found_alike(tmp_path, monkeypatch):
    data, results = save_coco(tmp_path / "data.json", ODD), tmp_path / "results.json"
    assert evaluate(monkeypatch, data, "--results", results, "--names-at-once", 1) == 0
    records = json.loads(results.read_text())
    boxes = {
        category: [(r["image_id"], *r["bbox"], r["score"]) for r in records
                   if r["category_id"] == category]
        for category in (20, 40)
    }  # fmt: skip
    both = set(boxes[20]) & set(boxes[40])
    assert both
    assert len(both) >= min(map(len, boxes.values())) - 2  # a tie at the end of an image's best


def test_the_scores_are_those_of_the_names_words(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    names = ["hot dog", "T-shirt", "zebra"]
    data, results = save_coco(tmp_path / "data.json", names, 1), tmp_path / "results.json"
    folder = save_words(tmp_path / "words")
    assert cli.main(["eval", str(folder), str(data), "--results", str(results)]) == 0
    assert "AP_small" in capsys.readouterr().out
    image = np.asarray(Image.open(tmp_path / "1.png"))
    found = GroundedDetector.from_pretrained(folder)(image, names, 0.0)
    wanted = sorted(found.phrase_scores.ravel().tolist(), reverse=True)
    records = json.loads(results.read_text())
    np.testing.assert_allclose([r["score"] for r in records], wanted, atol=1e-4)
    assert {r["category_id"] for r in records} == {10, 20, 30}


def test_weights_say_how_long_their_captions_are(tmp_path):
    _, params, _ = small_words()
    about = {"vocabulary": vocabulary(), "text_length": 32, "probe": False}
    save_pretrained(tmp_path / "words", NAME, FIELDS, params, **about)
    assert from_pretrained(tmp_path / "words").text_length == 32
    load = GroundedDetector.from_pretrained
    assert load(tmp_path / "words").length == 32
    assert load(tmp_path / "words", length=64).length == 64
    assert load(save_words(tmp_path / "plain")).length == 256


def test_a_data_set_without_objects_has_no_numbers_and_no_mistake(tmp_path, monkeypatch, capsys):
    data = save_coco(tmp_path / "data.json", ODD, objects=False)
    metrics = tmp_path / "metrics.json"
    assert evaluate(monkeypatch, data, "--json", metrics, "--batch-size", 2) == 0
    answer = json.loads(metrics.read_text())
    assert answer["metrics"]["AP"] is None
    assert set(answer["per_class"]) == set(ODD)
    assert "(4 of 4 classes have no objects here)" in capsys.readouterr().out


def test_words_are_for_weights_that_read_them(tmp_path, capsys):
    folder = save_tiny(tmp_path / "tiny")
    data = save_coco(tmp_path / "data.json", ["star"])
    expressions = tmp_path / "expressions.json"
    content = json.loads(data.read_text())
    for image in content["images"]:
        image["caption"] = "a star"
    expressions.write_text(json.dumps(content))
    entries = tmp_path / "list.json"
    entries.write_text(json.dumps([{"name": "a", "data": str(data)}]))
    for words, message in (
        ([data, "--vocab", "vocab.txt"], "--vocab is of weights that read captions"),
        ([data, "--names-at-once", 4], "--names-at-once is of weights that read captions"),
        ([f"refcoco:{expressions}"], "referring expressions need weights that read captions"),
        ([f"list:{entries}"], "judged by the names of their classes"),
    ):
        assert cli.main(["eval", str(folder), *map(str, words)]) == 2
        assert message in " ".join(capsys.readouterr().err.split())


def test_a_vocabulary_must_be_there(tmp_path, monkeypatch, capsys, tokenizer):
    data = save_coco(tmp_path / "data.json", ["star"])

    def absent(source):
        raise UserError("no network")

    with monkeypatch.context() as patched:
        patched.setattr("jaxseg.pretrained.load_tokenizer", absent)
        assert evaluate(patched, data, vocabulary=False) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "the weights hold no vocabulary" in said
    assert "--vocab" in said
    assert evaluate(monkeypatch, data, "--vocab", tmp_path / "vocab.txt") == 2
    assert "there is no vocabulary" in " ".join(capsys.readouterr().err.split())
    assert evaluate(monkeypatch, data, "--names-at-once", 0) == 2
    assert "--names-at-once must be 1 or more; got 0" in capsys.readouterr().err

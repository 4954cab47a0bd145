"""Referring expressions: accuracy by hand, the data set's mistakes, and the boxes of the model."""

import json
import pickle

import numpy as np
import pytest

from jaxseg.data import open_dataset
from jaxseg.data.mixture import Mixture
from jaxseg.errors import UserError
from jaxseg.eval.expressions import make_expression_evaluator
from jaxseg.eval.referring import referring_table
from jaxseg.predict import GroundedDetector
from tests.eval.told import evaluate, save_images
from tests.predict.small_words import CONFIG, small_words

BOX = [10, 10, 40, 40]
EXPRESSIONS = ["the man on the left", "Zebra behind the tree.", "a cup"]


def truth(images: int) -> dict:
    numbers = range(1, images + 1)
    return {
        "images": [{"id": i} for i in numbers],
        "annotations": [{"id": i, "image_id": i, "bbox": BOX} for i in numbers],
    }


def found(image: int, *boxes: list, score: float | None = None) -> list[dict]:
    """Detections of falling scores, or of one."""
    return [
        {"image_id": image, "bbox": box, "score": 0.9 - i / 100 if score is None else score}
        for i, box in enumerate(boxes)
    ]


def accuracy(case: dict, records: list, image_ids=None) -> list[float]:
    return list(referring_table(case, records, image_ids=image_ids).stats.values())


def test_the_first_right_box_decides_at_which_ranks_an_expression_counts():
    wrong = [200, 200, 40, 40]
    records = [
        *found(1, BOX),
        *found(2, *[wrong] * 4, BOX),
        *found(3, *[wrong] * 9, BOX),
        *found(4, *[wrong] * 10, BOX),
    ]
    assert accuracy(truth(5), records) == [1 / 5, 2 / 5, 3 / 5]  # nothing was found in image 5
    assert accuracy(truth(5), records, [2, 3]) == [0, 1 / 2, 1]
    table = referring_table(truth(5), records)
    assert table.metrics() == {"accuracy_1": 0.2, "accuracy_5": 0.4, "accuracy_10": 0.6}
    last = [line.split()[-2:] for line in str(table).splitlines()[-3:]]
    assert last == [["accuracy_1", "0.200"], ["accuracy_5", "0.400"], ["accuracy_10", "0.600"]]


def test_half_an_overlap_is_enough_and_less_is_not():
    half, less = [10, 10, 40, 20], [10, 10, 40, 19.9]
    assert accuracy(truth(1), found(1, half))[0] == 1
    assert accuracy(truth(1), found(1, less))[0] == 0
    assert accuracy(truth(1), found(1, [0, 0, 0, 0]))[0] == 0


def test_of_equal_scores_the_earlier_box_is_the_better():
    wrong = [200, 200, 40, 40]
    assert accuracy(truth(1), found(1, BOX, wrong, score=0.5))[0] == 1
    assert accuracy(truth(1), found(1, wrong, BOX, score=0.5)) == [0, 1, 1]
    late = [*found(1, wrong, score=0.5), *found(1, BOX, score=0.6)]
    assert accuracy(truth(1), late)[0] == 1


def test_an_image_has_one_box():
    case = truth(2)
    with pytest.raises(UserError, match="the image 2 has no boxes"):
        referring_table(case | {"annotations": case["annotations"][:1]}, [])
    with pytest.raises(UserError, match="the image 1 has 2 boxes"):
        referring_table(case | {"annotations": case["annotations"] * 2}, [])
    with pytest.raises(UserError, match="nothing to evaluate"):
        referring_table(case, [], image_ids=[])


@pytest.fixture
def file(tmp_path):
    """Three entries of two images, in the form of MDETR's files and without categories."""
    images = save_images(tmp_path / "images", 2)
    entries = [images[0], images[1], images[1] | {"id": 3}]
    content = {
        "images": [e | {"caption": c} for e, c in zip(entries, EXPRESSIONS, strict=True)],
        "annotations": [
            {"id": i, "image_id": i, "bbox": [4, 4, 20, 20], "tokens_positive": [[0, 3]]}
            for i in (1, 2, 3)
        ],
    }
    path = tmp_path / "finetune_refcoco_val.json"
    path.write_text(json.dumps(content))
    return path


def rewrite(path, **changes) -> None:
    content = json.loads(path.read_text())
    for part, change in changes.items():
        change(content[part])
    path.write_text(json.dumps(content))


def test_a_file_is_a_data_set_of_one_expression_an_image(file):
    dataset = open_dataset(f"refcoco:{file}")
    assert dataset.captions == tuple(EXPRESSIONS)
    assert len(dataset) == 3
    example = dataset[1]
    assert example.caption == EXPRESSIONS[1] == example.names[example.labels[0]]
    assert example.boxes.tolist() == [[4, 4, 24, 24]]
    np.testing.assert_array_equal(example.image, dataset[2].image)
    assert [a["category_id"] for a in dataset.coco()["annotations"]] == [1, 1, 1]
    assert dataset.without_masks().captions == dataset.captions
    assert b"bbox" not in pickle.dumps(dataset)  # workers need no ground truth


def test_a_mixture_of_expressions_has_names_by_image(file):
    parts = [(open_dataset(f"refcoco:{file}"), 1.0)] * 2
    assert Mixture(parts).names_by_image


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"annotations": lambda x: x.pop()}, r"the image 3 \('a cup'\) has no annotations"),
        (
            {"annotations": lambda x: x.append({**x[0], "id": 9})},
            "the image 1 .* has 2 annotations",
        ),
        ({"annotations": lambda x: x[1].update(bbox=[5, 5, 0, 9])}, "box of the image 2 is empty"),
        ({"annotations": lambda x: x[1].update(bbox=[5, 5])}, "bbox must be"),
        ({"images": lambda x: x[1].update(caption=" ")}, "the image 2 has no expression"),
        ({"images": lambda x: x[1].pop("caption")}, "the image 2 has no expression"),
        ({"images": lambda x: x.clear()}, "is empty"),
    ],
)
def test_mistakes_in_a_file_are_named(changes, message, file):
    rewrite(file, **changes)
    with pytest.raises(UserError, match=message):
        open_dataset(f"refcoco:{file}")


def test_the_boxes_are_those_of_the_likeliest_tokens(file):
    model, params, tokenizer = small_words()
    dataset = open_dataset(f"refcoco:{file}")
    evaluator = make_expression_evaluator(
        model, dataset, tokenizer, image=CONFIG, batch_size=2, progress=False
    )
    evaluation = evaluator.evaluate(params)
    assert evaluation.images == 3
    detector = GroundedDetector(model, params, tokenizer, CONFIG)
    for index, caption in enumerate(EXPRESSIONS):
        own = [r for r in evaluation.records if r["image_id"] == dataset.image_ids[index]]
        assert len(own) == 10
        best = detector(dataset[index].image, caption, 0.0)
        x1, y1, x2, y2 = best.boxes[0]
        np.testing.assert_allclose(own[0]["bbox"], [x1, y1, x2 - x1, y2 - y1], atol=0.01)
        np.testing.assert_allclose([r["score"] for r in own], best.scores[:10], atol=1e-4)


def test_a_limit_judges_the_first_expressions(file):
    model, _, tokenizer = small_words()
    dataset = open_dataset(f"refcoco:{file}")
    options = {"image": CONFIG, "limit": 1, "progress": False}
    evaluator = make_expression_evaluator(model, dataset, tokenizer, **options)
    assert list(evaluator.image_ids) == [1]


def test_an_expression_that_the_model_cannot_read_whole_is_named(file):
    rewrite(file, images=lambda x: x[1].update(caption="left " * 255))
    model, _, tokenizer = small_words()
    with pytest.raises(UserError, match=r"expression of image 2 has 258 tokens and .* reads 256"):
        make_expression_evaluator(model, open_dataset(f"refcoco:{file}"), tokenizer, image=CONFIG)


def test_the_command_prints_and_writes_the_accuracy(file, tmp_path, monkeypatch, capsys):
    metrics, results = tmp_path / "metrics.json", tmp_path / "results.json"
    words = (f"refcoco:{file}", "--batch-size", 2, "--json", metrics, "--results", results)
    assert evaluate(monkeypatch, *words) == 0
    printed = capsys.readouterr().out
    assert "Referring expressions" in printed
    assert "3 images" in printed
    answer = json.loads(metrics.read_text())
    records = json.loads(results.read_text())
    expected = referring_table(open_dataset(f"refcoco:{file}").coco(), records)
    assert answer["metrics"] == expected.stats
    assert answer["images"] == 3

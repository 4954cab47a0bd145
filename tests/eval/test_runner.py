"""Evaluating a model on a data set: exact numbers, every image once, one compile per canvas."""

import json
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.data import open_dataset
from jaxseg.data.classes import COCO_91, Classes
from jaxseg.errors import UserError
from jaxseg.eval.build import First, make_evaluator
from jaxseg.eval.categories import match_categories
from jaxseg.predict import Detector
from tests import stripe_finder
from tests.data.panoptic_files import stripes
from tests.eval.test_gather import run_two
from tests.eval.toy import IMAGE, ColourFinder, Rectangles
from tests.train.processes import start

PARAMS = {"gain": jnp.float32(1.0)}


def evaluator(dataset=None, **options):
    return make_evaluator(
        ColourFinder(),
        Rectangles() if dataset is None else dataset,
        image=IMAGE,
        progress=False,
        **options,
    )


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_model_that_finds_everything_scores_one(batch_size):
    evaluation = evaluator(batch_size=batch_size).evaluate(PARAMS)
    assert evaluation.images == 7
    # Resizing moves the edges by up to half a pixel, so the strictest overlaps fail now and then.
    assert evaluation.table.stats["AP"] > 0.95
    assert evaluation.table.stats["AP50"] == pytest.approx(1)
    metrics = evaluation.metrics()
    assert metrics["AP/red"] > 0.95
    assert metrics["images_per_second"] > 0
    assert {record["category_id"] for record in evaluation.records} == {7, 90}


def test_parameters_and_not_the_evaluator_decide_the_score():
    judge = evaluator(batch_size=4)
    assert judge(PARAMS, step=10)["AP50"] == pytest.approx(1)
    assert judge({"gain": jnp.float32(0.5)}, step=20)["AP50"] < 0.5


def test_evaluation_judges_the_boxes_that_prediction_shows():
    dataset = Rectangles()
    detector = Detector(ColourFinder(), PARAMS, dataset.classes, IMAGE)
    records = evaluator().evaluate(PARAMS).records
    for index, image_id in enumerate(dataset.image_ids):
        ours = [r["bbox"] for r in records if r["image_id"] == image_id]
        boxes = detector(dataset[index].image, 0.0).boxes
        xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], -1)
        np.testing.assert_allclose(ours, xywh, atol=1e-3)


def test_each_canvas_compiles_once():
    compiled = []
    judge = evaluator(batch_size=2)
    judge(PARAMS)

    def listen(event: str, _: float, **__) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        judge(PARAMS)
        assert not compiled
        evaluator(batch_size=2)(PARAMS)
        assert compiled, "the listener must hear compilations for the test to mean anything"
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_strips_that_no_resize_rule_foresees_are_judged_too():
    evaluation = evaluator(Rectangles([(1, 5000), (64, 64)])).evaluate(PARAMS)
    assert evaluation.images == 2


def test_a_limit_judges_the_first_images_only():
    evaluation = evaluator(limit=2, batch_size=4).evaluate(PARAMS)
    assert evaluation.images == 2
    assert {record["image_id"] for record in evaluation.records} == {"image-0", "image-1"}
    assert evaluation.table.stats["AR_100"] > 0.95, "the other images must not count as misses"
    assert evaluator(limit=100).evaluate(PARAMS).images == 7


def test_a_mesh_gives_the_same_records():
    said = start("tests.eval.eight_devices", devices=8).communicate(timeout=240)[0]
    assert "ok: the same records" in said.splitlines(), said


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """The panoptic data set, and what each of two processes found, by the way they went."""
    path = stripes(tmp_path_factory.mktemp("stripes"))
    outputs = run_two("tests.eval.runner_worker", str(path))
    return path, [json.loads(output.splitlines()[-1]) for output in outputs]


@pytest.mark.parametrize("way", ["mesh", "alone"])
def test_two_processes_see_every_image_once_and_agree(two_processes, way):
    expected = evaluator(batch_size=2).evaluate(PARAMS)
    for process in two_processes[1]:
        assert process[way]["images"] == 7
        assert process[way]["records"] == expected.records
        assert process[way]["AP"] == expected.table.stats["AP"]


@pytest.mark.parametrize(("way", "rows"), [("masks", 1), ("tensor", 2)])
def test_two_processes_judge_the_masks_of_their_own_rows(two_processes, way, rows):
    path, answers = two_processes
    dataset = open_dataset(f"panoptic:{path}")
    model, image = stripe_finder.StripeFinder(), stripe_finder.IMAGE
    expected = make_evaluator(model, dataset, image=image, progress=False).evaluate(PARAMS)
    first, second = [answer[way] for answer in answers]
    for found in (first, second):
        assert (found["images"], found["PQ"], found["rows"]) == (3, 1, rows)
        assert found["records"] == expected.records
    # The processes of "tensor" hold the same rows, and share the work.
    assert not set(first["reported"]) & set(second["reported"])
    assert len(first["reported"] + second["reported"]) == first["real"] == second["real"]


def test_diverged_weights_score_zero_with_a_warning():
    with pytest.warns(UserWarning, match="not finite"):
        metrics = evaluator(batch_size=4)({"gain": jnp.float32(np.nan)})
    assert metrics["AP"] == 0


def test_a_wrong_class_count_is_refused_before_any_work():
    with pytest.raises(UserError, match=r"predict 5 classes .* has 2 \(ids 7 to 90\)"):
        make_evaluator(ColourFinder(num_classes=5), Rectangles(), image=IMAGE)


def test_an_empty_data_set_is_refused():
    with pytest.raises(UserError, match="no images"):
        evaluator(Rectangles(np.zeros((0, 2), np.int32)))


def test_classes_match_by_name_whatever_their_numbers():
    data = Classes.from_categories([{"id": 5, "name": "Dog"}, {"id": 2, "name": "cat "}])
    ids = match_categories(COCO_91, 91, data)
    assert {COCO_91.names[label]: ids[label] for label in range(91) if ids[label]} == {
        "cat": 2,
        "dog": 5,
    }
    raw = Classes.from_categories([{"id": 5, "name": "Dog"}, {"id": 2, "name": "cat "}], "raw")
    assert match_categories(raw, 6, data) == (None, None, 2, None, None, 5)


def test_models_without_names_match_by_count():
    data = Classes.from_categories([{"id": 3, "name": "a"}, {"id": 1, "name": "b"}])
    assert match_categories(None, 2, data) == (1, 3)
    assert match_categories(None, 4, data) == (None, 1, None, 3)
    with pytest.raises(UserError, match="trained on it"):
        match_categories(None, 3, data)


def test_equal_names_stay_apart_by_their_order():
    data = Classes(("cell", "cell"), (3, 8))
    assert match_categories(Classes(("cell", "cell"), (0, 1)), 2, data) == (3, 8)


def test_names_that_differ_by_letter_case_alone_are_refused():
    data = Classes(("Cell", "cat", "cell "), (3, 5, 8))
    with pytest.raises(UserError, match=r"'Cell' \(id 3\) and 'cell ' \(id 8\)"):
        match_categories(Classes.from_names(["cat", "cell"]), 2, data)


def test_a_class_the_weights_do_not_know_is_named():
    data = Classes.from_categories([{"id": 1, "name": "cat"}, {"id": 2, "name": "unicorn"}])
    with pytest.raises(UserError, match="1 of the data set's 2 classes: unicorn"):
        match_categories(COCO_91, 91, data)
    # A category that nothing is labelled with need not be known (Roboflow writes such).
    assert 1 in match_categories(COCO_91, 91, data, annotated={1})


def test_the_first_images_of_a_data_set_cross_to_worker_processes():
    whole = open_dataset("synthetic:shapes?count=5&size=32")
    first = pickle.loads(pickle.dumps(First(whole, 2)))
    assert len(first) == 2
    assert first.image_ids == [1, 2]
    assert first.classes == whole.classes
    np.testing.assert_array_equal(first[1].image, whole[1].image)

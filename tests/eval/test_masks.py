"""Evaluation of masks: COCO's table, panoptic quality, and what judges which."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import cli
from jaxseg.data import open_dataset
from jaxseg.data.segmentation import encode_mask
from jaxseg.errors import UserError
from jaxseg.eval.build import make_evaluator
from tests.data.panoptic_files import CATEGORIES, stripes
from tests.predict.tiny import save_tiny
from tests.stripe_finder import IMAGE, PARAMS, StripeFinder

WRONG = {"gain": jnp.float32(-1.0)}


def evaluator(dataset, **options):
    return make_evaluator(StripeFinder(), dataset, image=IMAGE, progress=False, **options)


@pytest.fixture
def instances(tmp_path):
    """The stripes in COCO's form for instances, masks as run lengths."""
    panoptic = open_dataset(f"panoptic:{stripes(tmp_path)}", masks=True)
    truth = panoptic.coco()
    for index, image_id in enumerate(panoptic.image_ids):
        own = [a for a in truth["annotations"] if a["image_id"] == image_id]
        for annotation, mask in zip(own, panoptic[index].masks, strict=True):
            annotation["segmentation"] = encode_mask(mask)
    path = tmp_path / "val" / "instances.json"
    path.write_text(json.dumps(truth))
    return path


@pytest.mark.parametrize("options", [{}, {"batch_size": 2}, {"canvas": "padded"}])
def test_a_model_that_finds_everything_has_a_panoptic_quality_of_one(tmp_path, options):
    dataset = open_dataset(f"panoptic:{stripes(tmp_path)}")
    evaluation = evaluator(dataset, **options).evaluate(PARAMS)
    assert evaluation.masks is None
    assert evaluation.panoptic.stats["PQ"] == 1
    assert evaluation.panoptic.per_class["blue"]["segments"] == 2
    metrics = evaluation.metrics()
    assert (metrics["PQ_stuff"], metrics["PQ/green"], metrics["AP50"]) == (1, 1, 1)


def test_segments_without_an_area_and_with_crowds_in_words_are_judged(tmp_path):
    path = stripes(tmp_path)
    truth = json.loads(path.read_text())
    for annotation in truth["annotations"]:
        for segment in annotation["segments_info"]:
            del segment["area"]
            segment["iscrowd"] = "0"
    path.write_text(json.dumps(truth))
    evaluation = evaluator(open_dataset(f"panoptic:{path}")).evaluate(PARAMS)
    assert evaluation.panoptic.stats["PQ"] == 1
    assert evaluation.table.stats["AP50"] == 1


def test_masks_and_not_boxes_decide_the_panoptic_quality(tmp_path):
    dataset = open_dataset(f"panoptic:{stripes(tmp_path)}")
    evaluation = evaluator(dataset).evaluate(WRONG)
    # The image of one stripe goes to its query, whatever the mask.
    assert evaluation.panoptic.stats["PQ"] < 0.5
    assert evaluation.table.stats["AP50"] == 1


def test_instance_masks_have_a_table_of_their_own(instances):
    judge = evaluator(open_dataset(instances))
    found = judge.evaluate(PARAMS)
    assert found.panoptic is None
    assert (found.table.stats["AP"], found.masks.stats["AP"]) == (1, 1)
    assert found.masks.iou_type == "segm"
    assert found.metrics()["mask_AP/red"] == 1
    assert all("segmentation" in record for record in found.records)
    wrong = judge.evaluate(WRONG)
    assert (wrong.table.stats["AP"], wrong.masks.stats["AP50"]) == (1, 0)


def test_boxes_alone_are_judged_where_there_are_no_masks_or_none_are_wanted(instances):
    plain = evaluator(open_dataset(instances), masks=False).evaluate(PARAMS)
    assert plain.masks is None
    truth = json.loads(instances.read_text())
    del truth["annotations"][0]["segmentation"]
    instances.write_text(json.dumps(truth))
    with pytest.raises(UserError, match=r"no mask, while others have one.*--boxes"):
        evaluator(open_dataset(instances))
    for annotation in truth["annotations"]:
        annotation.pop("segmentation", None)
    instances.write_text(json.dumps(truth))
    assert evaluator(open_dataset(instances)).judge is None


RUNS = {"size": [64, 64], "counts": [4096]}
SPIKE = [[1, 1, 9, 9, 1, 9, 4]]


@pytest.mark.parametrize(
    ("mask", "problem"),
    [
        ({"size": [64, 64]}, "run lengths without counts"),
        (RUNS | {"size": [40, 40]}, r"run lengths of size \[40, 40\] on an image of \[64, 64\]"),
        (RUNS | {"counts": [4095]}, "add up to 4096"),
        (RUNS | {"counts": "zzzz"}, "decoded 50 pixels"),
        (RUNS, "cover no pixel"),
        (SPIKE, "odd number"),
        ([["a", 1, 2, 3, 4, 5]], "not finite numbers"),
        ([[1, 1, 9, 9]], "fewer than three points"),
        ("masks.png", "neither a list of polygons nor run lengths"),
    ],
)
def test_masks_that_cannot_be_judged_are_named_before_any_work(instances, mask, problem):
    truth = json.loads(instances.read_text())
    last = truth["annotations"][-1]
    last["segmentation"] = mask
    instances.write_text(json.dumps(truth))
    named = rf"annotation {last['id']} of image 13 has a mask that cannot be judged: .*{problem}"
    with pytest.raises(UserError, match=named):
        evaluator(open_dataset(instances))
    assert evaluator(open_dataset(instances), limit=1).judge.instances, "others are not judged"


def test_a_limit_leaves_the_other_images_out(tmp_path):
    dataset = open_dataset(f"panoptic:{stripes(tmp_path)}")
    evaluation = evaluator(dataset, limit=1).evaluate(PARAMS)
    assert [row["segments"] for row in evaluation.panoptic.per_class.values()] == [1, 1, 1]


def test_the_command_prints_and_writes_what_it_judged(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    names = [category["name"] for category in CATEGORIES]
    weights = save_tiny(tmp_path / "weights", name="detr.tiny_masks", names=names)
    panoptic = stripes(tmp_path / "stripes")
    metrics = tmp_path / "metrics.json"
    call = ["eval", str(weights), f"panoptic:{panoptic}", "--json", str(metrics)]
    assert cli.main(call) == 0
    printed = capsys.readouterr().out
    assert "COCO metrics of boxes" in printed
    assert "Panoptic quality" in printed
    answer = json.loads(metrics.read_text())
    assert set(answer["panoptic"]["metrics"]) >= {"PQ", "SQ_things", "RQ_stuff"}
    assert np.isfinite(answer["metrics"]["AP"])
    assert cli.main([*call, "--boxes", "--limit", "1"]) == 0
    assert "Panoptic" not in capsys.readouterr().out

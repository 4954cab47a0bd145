"""The evaluator against the COCO API's published example and against pycocotools."""

import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from faster_coco_eval import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from jaxseg.data.segmentation import encode_mask
from jaxseg.errors import UserError
from jaxseg.eval.categories import distinct_names
from jaxseg.eval.coco_ap import METRICS, _per_class, coco_table
from jaxseg.eval.results import coco_records
from jaxseg.structures import Detections
from tests.eval.example import example, example_batches


def toy_truth() -> dict:
    """Three images, sparse category ids, ids that the engine alone would stumble over."""
    boxes = {"a": [[10, 10, 40, 40], [60, 20, 20, 30]], "b": [[5, 5, 100, 50]]}
    annotations = [
        {"id": 0, "image_id": image, "category_id": 7, "bbox": box, "area": box[2] * box[3],
         "iscrowd": 0}
        for image, found in boxes.items() for box in found
    ]  # fmt: skip
    return {
        "images": [{"id": name, "height": 100, "width": 120} for name in "abc"],
        "annotations": annotations,
        "categories": [{"id": 7, "name": "cell"}, {"id": 90, "name": "cat"}],
    }


def perfect(truth: dict) -> list[dict]:
    return [
        {key: a[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.9}
        for a in truth["annotations"]
    ]


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_our_detections_reproduce_the_published_numbers(iou_type):
    truth, _, expected = example(iou_type)
    records = [record for _, found in example_batches(iou_type, range(100)) for record in found]
    table = coco_table(truth, json.loads(json.dumps(records)), iou_type)
    for name in METRICS:
        assert round(table.stats[name], 3) == round(expected["stats"][name], 3), name
    for name, (ap, ap50) in expected["per_category_AP_and_AP50"].items():
        assert table.per_class[name]["AP"] == pytest.approx(ap, abs=5e-4)
        assert table.per_class[name]["AP50"] == pytest.approx(ap50, abs=5e-4)


@pytest.mark.parametrize("seed", range(5))
def test_the_numbers_equal_those_of_pycocotools(seed, tmp_path, capsys):
    truth, records = random_case(np.random.default_rng(seed))
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    oracle_truth = COCO(str(tmp_path / "truth.json"))
    oracle = COCOeval(oracle_truth, oracle_truth.loadRes([dict(r) for r in records]), "bbox")
    oracle.evaluate()
    oracle.accumulate()
    oracle.summarize()
    ours = [coco_table(truth, records).stats[name] for name in METRICS]
    theirs = np.where(oracle.stats < 0, np.nan, oracle.stats)
    np.testing.assert_allclose(ours, theirs, atol=1e-9)


def random_case(rng: np.random.Generator) -> tuple[dict, list[dict]]:
    """Random objects, crowds included, and noisy copies of them with tied scores."""
    annotations, records = [], []
    for image in range(1, 9):
        for _ in range(rng.integers(0, 6)):
            box = (rng.uniform(0, 100, 2).tolist()) + (rng.uniform(4, 150, 2).tolist())
            category = int(rng.choice([3, 17, 40]))
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image, "category_id": category,
                 "bbox": box, "area": box[2] * box[3] * 0.7, "iscrowd": int(rng.random() < 0.15)}
            )  # fmt: skip
            for _ in range(rng.integers(0, 3)):
                noisy = (np.asarray(box) * rng.uniform(0.8, 1.25, 4)).tolist()
                records.append(
                    {"image_id": image, "category_id": category, "bbox": noisy,
                     "score": float(rng.integers(0, 10) / 10)}
                )  # fmt: skip
    truth = {
        "info": {},
        "images": [{"id": i, "height": 300, "width": 300} for i in range(1, 9)],
        "annotations": annotations,
        "categories": [{"id": i, "name": f"class {i}"} for i in (3, 17, 40)],
    }
    return truth, records


def test_string_image_ids_and_annotation_id_zero_are_counted():
    truth = toy_truth()
    table = coco_table(truth, perfect(truth))
    assert table.stats["AP"] == pytest.approx(1.0)
    assert table.per_class["cell"] == {"AP": pytest.approx(1), "AP50": pytest.approx(1),
                                       "objects": 3}  # fmt: skip


def test_no_detections_score_zero_and_unannotated_classes_are_nan():
    table = coco_table(toy_truth(), [])
    assert table.stats["AP"] == 0
    assert table.stats["AR_100"] == 0
    assert np.isnan(table.per_class["cat"]["AP"])
    assert "1 of 2 classes have no objects" in str(table)


def test_images_without_objects_or_detections_only_add_misses():
    truth = toy_truth()
    kept = [r for r in perfect(truth) if r["image_id"] == "a"]
    assert coco_table(truth, kept).stats["AR_100"] == pytest.approx(2 / 3)
    assert coco_table(truth, kept, image_ids=["a", "c"]).stats["AR_100"] == pytest.approx(1)


def test_a_data_set_without_objects_has_no_score():
    truth = toy_truth() | {"annotations": []}
    assert np.isnan(coco_table(truth, perfect(toy_truth())).stats["AP"])


def test_areas_and_crowds_of_other_kinds_are_read_as_everywhere():
    truth = toy_truth()
    truth["annotations"][0] |= {"area": "1600", "iscrowd": "0"}
    truth["annotations"][1] |= {"area": float("nan"), "iscrowd": "false"}
    table = coco_table(truth, perfect(truth))
    assert table.per_class["cell"]["objects"] == 3
    assert table.stats["AP_medium"] == pytest.approx(1)


def test_the_ground_truth_is_not_changed():
    truth = toy_truth()
    before = json.dumps(truth)
    coco_table(truth, perfect(truth))
    assert json.dumps(truth) == before


def test_records_of_another_data_set_are_refused_by_name():
    truth = toy_truth()
    with pytest.raises(UserError, match=r"category_id 8"):
        coco_table(truth, [perfect(truth)[0] | {"category_id": 8}])
    with pytest.raises(UserError, match=r"image_id 'z'"):
        coco_table(truth, [perfect(truth)[0] | {"image_id": "z"}])
    with pytest.raises(UserError, match="no images"):
        coco_table(truth | {"images": []}, [])


def test_categories_of_one_name_stay_apart():
    truth = toy_truth()
    truth["categories"][1]["name"] = "cell"
    assert set(coco_table(truth, []).per_class) == {"cell (id 7)", "cell (id 90)"}


def test_images_need_no_size_and_categories_no_name():
    truth = toy_truth()
    truth["images"] = [{"id": image["id"]} for image in truth["images"]]
    truth["categories"] = [{"id": 7}, {"id": 90, "name": None}]
    table = coco_table(truth, perfect(truth))
    assert table.stats["AP"] == pytest.approx(1)
    assert set(table.per_class) == {"category 7", "category 90"}
    assert "category 7" in str(table)


def test_masks_need_neither_boxes_nor_areas_but_the_images_sizes():
    truth = toy_truth()
    for annotation in truth["annotations"]:
        x, y, w, h = annotation.pop("bbox")
        annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    records = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "score": 0.9,
         "segmentation": rle.merge(rle.frPyObjects(a["segmentation"], 100, 120))}
        for a in truth["annotations"]
    ]  # fmt: skip
    assert coco_table(truth, records, "segm").stats["AP"] == pytest.approx(1)
    del truth["images"][1]["height"]
    with pytest.raises(UserError, match="'b' has no height and width"):
        coco_table(truth, records, "segm")


def test_a_polygon_of_two_points_is_not_taken_for_a_box():
    truth = toy_truth()
    for annotation in truth["annotations"]:
        x, y, w, h = annotation["bbox"]
        square = [x, y, x + w, y, x + w, y + h, x, y + h]
        annotation["segmentation"] = [[0, 0, 90, 90], square]
    records = [
        {key: a[key] for key in ("image_id", "category_id")}
        | {"score": 0.9, "segmentation": encode_mask(square_mask(a["bbox"]))}
        for a in truth["annotations"]
    ]
    assert coco_table(truth, records, "segm").stats["AP"] == pytest.approx(1)


def square_mask(bbox) -> np.ndarray:
    x, y, w, h = bbox
    mask = np.zeros((100, 120), bool)
    mask[y : y + h, x : x + w] = True
    return mask


def test_many_categories_and_objects_take_no_more_than_their_sum():
    count = 20_000  # 400 million comparisons, were each category to look at every object
    truth = {
        "images": [{"id": 1}],
        "categories": [{"id": i, "name": f"{i % 7}"} for i in range(count)],
        "annotations": [],
    }
    names = distinct_names(truth["categories"])
    assert names[9] == "2 (id 9)"
    objects = [{"category_id": i, "iscrowd": i % 2} for i in range(count)]
    rows = _per_class(np.zeros((1, 1, count, 1, 1)), list(names.items()), objects)
    assert (rows["1 (id 8)"]["objects"], rows["2 (id 9)"]["objects"]) == (1, 0)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
def test_a_mask_survives_its_encoding():
    from pycocotools import mask as oracle

    rng = np.random.default_rng(0)
    long = np.zeros((900, 700), bool)
    long[850:, 300:] = rng.random((50, 400)) > 0.5
    sizes = rng.integers(1, 30, (60, 2))
    masks = [rng.random(size) < share for size in sizes for share in (0.0, 0.1, 0.6, 1.0)]
    for mask in (long, ~long, *masks):
        encoded = json.loads(json.dumps(encode_mask(mask)))
        np.testing.assert_array_equal(oracle.decode(encoded).astype(bool), mask)
        theirs = oracle.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
        assert encoded["counts"] == theirs.decode()


def test_threads_change_no_record():
    rng = np.random.default_rng(0)
    boxes = rng.uniform(0, 50, (2, 9, 4)).astype(np.float32)
    labels = np.tile(np.arange(9, dtype=np.int32) % 3, (2, 1))
    found = Detections(boxes, rng.random((2, 9), np.float32), labels)
    masks = rng.random((2, 9, 40, 30)) > 0.5
    of = (found, ["a", "b"], (3, None, 5))
    alone = coco_records(*of, mask_of=lambda row, q: masks[row, q])
    with ThreadPoolExecutor(4) as pool:
        assert coco_records(*of, mask_of=lambda row, q: masks[row, q], pool=pool) == alone
    inside = coco_records(dataclasses.replace(found, masks=masks), *of[1:])
    assert inside == alone
    assert len({record["segmentation"]["counts"] for record in alone}) == len(alone) == 12

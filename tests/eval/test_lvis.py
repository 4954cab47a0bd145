"""LVIS's fixed average precision: by hand, against the LVIS API's numbers, and by command."""

import json

import numpy as np
import pytest

from jaxseg.errors import UserError
from jaxseg.eval.fixed import BestScores, Federation, best_records
from jaxseg.eval.lvis import METRICS, is_lvis, lvis_table
from jaxseg.structures import Detections
from tests.eval.told import evaluate, save_images

BOX, AWAY = [10, 10, 40, 40], [200, 200, 40, 40]


def truth(images: dict, objects: list[tuple[int, int]], frequencies: str = "r") -> dict:
    """Images by id with (absent, not exhaustive) classes, objects as (image, class), all `BOX`."""
    return {
        "images": [
            {"id": i, "height": 300, "width": 300, "neg_category_ids": list(absent),
             "not_exhaustive_category_ids": list(some)}
            for i, (absent, some) in images.items()
        ],
        "annotations": [
            {"id": n, "image_id": image, "category_id": category, "bbox": BOX, "area": 1600}
            for n, (image, category) in enumerate(objects, 1)
        ],
        "categories": [
            {"id": n, "name": f"class {n}", "frequency": f} for n, f in enumerate(frequencies, 1)
        ],
    }  # fmt: skip


def found(image: int, score: float, category: int = 1, box=BOX) -> dict:
    return {"image_id": image, "category_id": category, "score": score, "bbox": list(box)}


def test_what_an_image_says_nothing_of_counts_for_nothing():
    records = [found(1, 0.8), found(2, 0.9, box=AWAY)]
    silent = truth({1: ((), ()), 2: ((), ())}, [(1, 1)])
    assert lvis_table(silent, records).stats["AP"] == pytest.approx(1)


def test_a_detection_of_what_is_known_to_be_absent_is_wrong():
    records = [found(1, 0.8), found(2, 0.9, box=AWAY)]
    absent = truth({1: ((), ()), 2: ((1,), ())}, [(1, 1)])
    assert lvis_table(absent, records).stats["AP"] == pytest.approx(1 / 2)


def test_where_not_all_are_annotated_only_matches_count():
    records = [found(1, 0.9, box=AWAY), found(1, 0.8)]
    whole = truth({1: ((), ())}, [(1, 1)])
    some = truth({1: ((), (1,))}, [(1, 1)])
    assert lvis_table(whole, records).stats["AP"] == pytest.approx(1 / 2)
    assert lvis_table(some, records).stats["AP"] == pytest.approx(1)
    assert lvis_table(some, records[:1]).stats["AP"] == 0


def test_an_image_may_have_any_number_of_detections():
    wrong = [found(1, 0.9 - i / 1000, box=AWAY) for i in range(400)]
    case = truth({1: ((), ())}, [(1, 1)])
    assert lvis_table(case, [*wrong, found(1, 0.1)]).stats["AP"] == pytest.approx(1 / 401)


def test_a_class_has_so_many_detections_of_all_images_together():
    case = truth({1: ((), ()), 2: ((), ()), 3: ((), ())}, [(1, 1), (1, 2)], "rf")
    best = [found(1, 0.9, box=AWAY), found(1, 0.8), found(1, 0.1, 2)]
    assert lvis_table(case, best, limit=2).stats["AP"] == pytest.approx((1 / 2 + 1) / 2)
    # Image 3 says nothing of class 1, and what is found in it takes a place all the same.
    crowded = [*best, found(3, 0.95, box=AWAY)]
    assert lvis_table(case, crowded, limit=2).stats["AP"] == pytest.approx((0 + 1) / 2)
    assert lvis_table(case, crowded, limit=3).stats["AP"] == pytest.approx((1 / 2 + 1) / 2)


def test_all_that_tie_with_the_last_one_are_judged():
    case = truth({1: ((), ())}, [(1, 1)])
    records = [found(1, 0.9, box=AWAY), found(1, 0.5, box=AWAY), found(1, 0.5)]
    assert lvis_table(case, records, limit=2).stats["AP"] == pytest.approx(1 / 3)


def test_classes_are_averaged_by_frequency_and_those_without_objects_by_none():
    case = truth({1: ((4,), ())}, [(1, 1), (1, 2), (1, 3)], "rccff")
    records = [found(1, 0.9), found(1, 0.9, 2, AWAY), found(1, 0.8, 2), found(1, 0.9, 4)]
    table = lvis_table(case, records)
    assert table.stats["APr"] == pytest.approx(1)
    assert table.stats["APc"] == pytest.approx((1 / 2 + 0) / 2)
    assert np.isnan(table.stats["APf"])
    assert table.stats["AP"] == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert table.stats["AP_medium"] == pytest.approx(table.stats["AP"])
    assert np.isnan(table.stats["AP_small"])
    assert list(table.stats) == list(METRICS)
    assert table.per_class["class 2"] == {
        "AP": pytest.approx(0.5), "AP50": pytest.approx(0.5), "objects": 1, "frequency": "c"
    }  # fmt: skip
    lines = str(table).splitlines()
    assert lines[0] == "LVIS, fixed average precision of boxes"
    assert ["APc", "common", "2", "0.250"] in [line.split() for line in lines]
    assert lines[-1] == "(2 of 5 classes have no objects here)"


def test_boxes_are_compared_at_ten_overlaps():
    case = truth({1: ((), ())}, [(1, 1)])
    stats = lvis_table(case, [found(1, 0.9, box=[10, 10, 40, 25])]).stats  # of IoU 0.625
    assert stats["AP"] == pytest.approx(3 / 10)
    assert (stats["AP50"], stats["AP75"]) == (pytest.approx(1), 0)


def random_case(seed: int) -> tuple[dict, list[dict]]:
    """Objects of 70 classes in 30 images, near and far detections, all scores distinct."""
    rng, frequencies = np.random.default_rng(seed), "rcf" * 23 + "r"
    case, records = truth(dict.fromkeys(range(100, 130), ((), ())), [], frequencies), []
    for image in case["images"]:
        classes = (rng.permutation(70) + 1).tolist()
        image["neg_category_ids"] = classes[4:8]
        image["not_exhaustive_category_ids"] = [c for c in classes[:4] if rng.random() < 0.3]
        for category in np.repeat(classes[:4], rng.integers(1, 4, 4)).tolist():
            box = [*rng.integers(0, 150, 2).tolist(), *rng.integers(5, 140, 2).tolist()]
            case["annotations"].append(
                {"id": len(case["annotations"]) + 1, "image_id": image["id"],
                 "category_id": category, "bbox": box, "area": box[2] * box[3] * 0.8}
            )  # fmt: skip
            for _ in range(3):
                near = np.maximum(np.asarray(box) + rng.normal(0, 8, 4), 1).tolist()
                records.append(found(image["id"], rng.random(), category, near))
        for _ in range(60):
            far = rng.uniform(5, 150, 4).tolist()
            records.append(found(image["id"], rng.random(), int(rng.integers(1, 71)), far))
    return case, records


# Of `lvis` 0.5.3, whose results were given the best of each class, without a limit per image.
LVIS_API = {
    (0, 10_000): [
        0.27028126, 0.55513199, 0.24684905, 0.05568894, 0.32391365, 0.55642987,
        0.22734670, 0.30058833, 0.28944545,
    ],
    (1, 10_000): [
        0.27164987, 0.56094165, 0.25351620, 0.07839242, 0.33621760, 0.60223207,
        0.30063361, 0.24853218, 0.26120744,
    ],
    (2, 20): [
        0.24237930, 0.50004512, 0.23128614, 0.07768277, 0.26655882, 0.54616612,
        0.23998716, 0.32638424, 0.17253938,
    ],
}  # fmt: skip


@pytest.mark.parametrize(("seed", "limit"), list(LVIS_API))
def test_the_numbers_are_those_of_the_lvis_api(seed, limit):
    stats = lvis_table(*random_case(seed), limit=limit).stats
    assert list(stats.values()) == pytest.approx(LVIS_API[seed, limit], abs=1e-6)


@pytest.mark.parametrize("room", [10, 1 << 22])
def test_what_no_image_judges_may_be_let_go_early(room):
    case, records = random_case(0)
    federation, best, kept = Federation.of(case, 15), BestScores(15, room), []
    ids = [None, *range(1, 71)]
    for image in case["images"]:
        own = [r for r in records if r["image_id"] == image["id"]]
        row = Detections(
            boxes=np.asarray([[r["bbox"] for r in own]]),
            scores=np.asarray([[r["score"] for r in own]]),
            labels=np.asarray([[r["category_id"] for r in own]]),
        )
        kept += [own[i] for i in federation.select(row, image["id"], ids, best)]
    assert len(kept) < len(records) / 2
    judged = best_records(kept, best.gather().least())
    assert len(judged) < len(kept)
    early, late = (lvis_table(case, x, limit=15) for x in (judged, records))
    assert repr(early) == repr(late)


def test_what_was_not_asked_for_and_what_is_no_number_take_no_place():
    case = truth({1: ((), ())}, [(1, 1)], "rc")
    row = Detections(
        boxes=np.full((1, 5, 4), [0.0, 0.0, 1.0, 1.0]),
        scores=np.asarray([[0.9, 0.0, np.nan, 0.8, 0.7]]),
        labels=np.asarray([[0, 0, 0, 1, 2]]),
    )
    best = BestScores(1)
    assert Federation.of(case, 1).select(row, 1, [1, 2, None], best).tolist() == [0, 2]
    assert best.least() == {1: 0.9, 2: 0.8}


def test_a_class_of_unknown_frequency_is_refused():
    case = truth({1: ((), ())}, [(1, 1)], "rx")
    with pytest.raises(UserError, match=r"'class 2' has the frequency 'x'"):
        lvis_table(case, [])
    with pytest.raises(UserError, match="category_id 9"):
        lvis_table(case, [found(1, 0.5, 9)])


def test_lvis_is_known_by_its_fields():
    case = truth({1: ((), ())}, [])
    assert is_lvis(case)
    plain = {"images": [{"id": 1}], "categories": [{"id": 1, "name": "cat", "frequency": "r"}]}
    assert not is_lvis(plain)


def test_the_command_asks_forty_names_at_a_time_and_keeps_all_that_is_judged(
    tmp_path, monkeypatch, capsys
):
    case = truth({1: ((), ()), 2: ((), ())}, [(1, 3), (2, 90)], "rcf" * 30)
    for own, image in zip(save_images(tmp_path / "val2017", 2), case["images"], strict=True):
        # As in LVIS's own files: no name but COCO's address. Each class is judged.
        image |= {"coco_url": f"http://images.cocodataset.org/val2017/{own['file_name']}"}
        image |= {"height": 32, "width": 32, "neg_category_ids": list(range(1, 91))}
    for annotation in case["annotations"]:
        annotation |= {"bbox": [2, 2, 28, 28], "area": 784}
    data, metrics, results = (tmp_path / f"{name}.json" for name in ("lvis", "metrics", "results"))
    data.write_text(json.dumps(case))
    assert evaluate(monkeypatch, data, "--json", metrics, "--results", results) == 0
    printed = capsys.readouterr().out
    assert "LVIS, fixed average precision of boxes" in printed
    records = json.loads(results.read_text())
    groups = [{(r["category_id"] - 1) // 40 for r in records if r["image_id"] == i} for i in (1, 2)]
    assert groups == [{0, 1, 2}, {0, 1, 2}]
    assert len(records) == 2 * 3 * 5  # images, captions, and what the model finds of each
    answer = json.loads(metrics.read_text())
    stats = lvis_table(case, records).stats
    for name, value in stats.items():
        assert answer["metrics"][name] == (None if np.isnan(value) else pytest.approx(value))
    assert answer["per_class"]["class 3"]["frequency"] == "f"

"""Panoptic quality worked out by hand, and against a slow definition written apart."""

import itertools
import math

import numpy as np
import pytest

from jaxseg.data.panoptic import Partition
from jaxseg.eval.panoptic import METRICS, match_segments, panoptic_table

CATEGORIES = [
    {"id": 1, "name": "cat", "isthing": 1},
    {"id": 2, "name": "dog", "isthing": 1},
    {"id": 9, "name": "sky", "isthing": 0},
]


def partition(text, categories, crowds=""):
    """Ids from letters (rows parted by spaces, "." is void); categories by letter."""
    rows = text.split()
    ids = np.asarray([[0 if c == "." else ord(c) for c in row] for row in rows], np.int32)
    segments = [
        {"id": ord(c), "category_id": k, "area": int((ids == ord(c)).sum()),
         "iscrowd": int(c in crowds)}
        for c, k in categories.items()
    ]  # fmt: skip
    return Partition(ids, segments)


def counted(truth, found):
    """{category: (iou, tp, fp, fn)}."""
    return {
        r["category_id"]: (r["iou"], r["tp"], r["fp"], r["fn"])
        for r in match_segments(truth, found)
    }


def test_a_perfect_prediction_counts_each_segment_once():
    truth = partition("aab aab", {"a": 1, "b": 9})
    found = partition("ppq ppq", {"p": 1, "q": 9})
    assert counted(truth, found) == {1: (1.0, 1, 0, 0), 9: (1.0, 1, 0, 0)}


def test_a_half_is_no_match_and_more_is():
    truth = partition("aaaa bbbb", {"a": 1, "b": 9})
    # p shares 2 of 4 + 2 - 2 pixels with a: exactly a half.
    half = partition("pp.. qqqq", {"p": 1, "q": 9})
    assert counted(truth, half) == {1: (0.0, 0, 1, 1), 9: (1.0, 1, 0, 0)}
    more = partition("ppp. qqqq", {"p": 1, "q": 9})
    assert counted(truth, more) == {1: (0.75, 1, 0, 0), 9: (1.0, 1, 0, 0)}


def test_another_class_is_a_miss_and_a_false_alarm():
    truth, found = partition("aaaa", {"a": 1}), partition("pppp", {"p": 2})
    assert counted(truth, found) == {1: (0.0, 0, 0, 1), 2: (0.0, 0, 1, 0)}


def test_void_is_no_part_of_a_union():
    # p: 3 pixels of a, 5 of void; without void the union is a's 4 pixels.
    truth = partition("aaaa ....", {"a": 1})
    found = partition("ppp. pppp", {"p": 1})
    assert counted(truth, found) == {1: (3 / 4, 1, 0, 0)}


@pytest.mark.parametrize(("text", "alarms"), [("..aa", 1), ("...a", 0)])
def test_a_false_alarm_that_is_mostly_void_is_forgiven(text, alarms):
    truth, found = partition(text, {"a": 9}), partition("pppp", {"p": 1})
    assert counted(truth, found).get(1, (0, 0, 0, 0))[2] == alarms


def test_a_crowd_is_never_missed_and_forgives_its_own_class():
    truth = partition("cccc bbbb", {"c": 1, "b": 9}, crowds="c")
    found = partition("pprr qqqq", {"p": 1, "r": 2, "q": 9})
    assert counted(truth, found) == {9: (1.0, 1, 0, 0), 2: (0.0, 0, 1, 0)}
    # Void and crowd forgive together: 1 + 2 of 4 pixels.
    truth = partition(".cca", {"c": 1, "a": 2}, crowds="c")
    assert counted(truth, partition("pppp", {"p": 1})) == {2: (0.0, 0, 0, 1)}


@pytest.mark.parametrize("area", [None, "4", float("nan"), True])
def test_an_area_that_is_no_number_is_counted_in_the_pixels(area):
    truth = partition("aaaa bbbb", {"a": 1, "b": 9})
    truth.segments[0]["area"] = area
    del truth.segments[1]["area"]
    found = partition("ppp. qqqq", {"p": 1, "q": 9})
    assert counted(truth, found) == {1: (0.75, 1, 0, 0), 9: (1.0, 1, 0, 0)}


@pytest.mark.parametrize(("area", "iou"), [(5, 3 / 5), (2, 1.0), (0, 1.0), (-9, 1.0)])
def test_a_stated_area_counts_and_makes_no_union_less_than_what_is_shared(area, iou):
    truth = partition("aaa. ....", {"a": 1})
    truth.segments[0]["area"] = area
    assert counted(truth, partition("ppp. .ppp", {"p": 1})) == {1: (iou, 1, 0, 0)}


@pytest.mark.parametrize(("text", "crowd"), [("0", False), ("false", False), ("1", True)])
def test_crowds_are_read_from_text_too(text, crowd):
    truth = partition("cccc", {"c": 1})
    truth.segments[0]["iscrowd"] = text
    assert counted(truth, partition("....", {})) == ({} if crowd else {1: (0.0, 0, 0, 1)})
    expected = {} if crowd else {1: (1.0, 1, 0, 0)}
    assert counted(truth, partition("pppp", {"p": 1})) == expected


def test_pixels_of_no_listed_segment_are_void_and_an_id_may_be_zero():
    truth = partition("aabb", {"a": 1, "b": 9})
    ids = np.asarray([[0, 0, 7, 7]], np.int32)
    found = Partition(ids, [{"id": 0, "category_id": 1}])
    assert counted(truth, found) == {1: (1.0, 1, 0, 0), 9: (0.0, 0, 0, 1)}
    nothing = Partition(np.zeros((1, 4), np.int32), [])
    assert counted(truth, nothing) == {1: (0.0, 0, 0, 1), 9: (0.0, 0, 0, 1)}


def test_another_size_is_refused():
    with pytest.raises(ValueError, match="has the size of its image"):
        match_segments(partition("aa", {"a": 1}), partition("p", {"p": 1}))


def test_the_table_sums_over_images_and_averages_over_classes():
    records = [
        {"category_id": 1, "iou": 0.8, "tp": 1, "fp": 1, "fn": 0},
        {"category_id": 1, "iou": 0.6, "tp": 1, "fp": 0, "fn": 1},
        {"category_id": 9, "iou": 0.0, "tp": 0, "fp": 2, "fn": 0},
    ]
    table = panoptic_table(records, CATEGORIES)
    assert tuple(table.stats) == METRICS
    assert table.per_class["cat"] == {
        "PQ": pytest.approx(1.4 / 3), "SQ": pytest.approx(0.7), "RQ": pytest.approx(2 / 3),
        "segments": 3, "thing": True,
    }  # fmt: skip
    assert math.isnan(table.per_class["dog"]["PQ"])
    assert (table.per_class["sky"]["PQ"], table.per_class["sky"]["SQ"]) == (0.0, 0.0)
    assert table.stats["PQ"] == pytest.approx(0.7 / 3)
    assert table.stats["PQ_things"] == pytest.approx(1.4 / 3)
    assert table.stats["SQ_stuff"] == 0.0
    assert table.metrics()["PQ/cat"] == pytest.approx(1.4 / 3)
    printed = str(table)
    assert "things   0.467  0.700  0.667" in printed
    assert "(1 of 3 classes have no segments here)" in printed
    assert all(math.isnan(x) for x in panoptic_table([], CATEGORIES).stats.values())


def test_categories_of_one_name_have_rows_of_their_own():
    categories = [{"id": 1, "name": "cell"}, {"id": 2, "name": "cell"}, {"id": 5}]
    records = [{"category_id": 2, "iou": 0.8, "tp": 1, "fp": 0, "fn": 0}]
    table = panoptic_table(records, categories)
    assert list(table.per_class) == ["cell (id 1)", "cell (id 2)", "category 5"]
    assert table.metrics()["PQ/cell (id 2)"] == 0.8
    assert math.isnan(table.metrics()["PQ/cell (id 1)"])


def slow_quality(images):
    """The definition of arXiv 1801.00868 and the API's rules for void, by sets of pixels."""
    sums = {c["id"]: [0.0, 0, 0, 0] for c in CATEGORIES}
    for truth, found in images:
        pixels = list(np.ndindex(truth.ids.shape))
        sets = [
            {s["id"]: {p for p in pixels if part.ids[p] == s["id"]} for s in part.segments}
            for part in (truth, found)
        ]
        void = {p for p in pixels if truth.ids[p] == 0}
        matched = [set(), set()]
        for a, b in itertools.product(truth.segments, found.segments):
            if a["category_id"] == b["category_id"] and not a["iscrowd"]:
                x, y = sets[0][a["id"]], sets[1][b["id"]]
                iou = len(x & y) / len((x | y) - void)
                if iou > 0.5:
                    sums[a["category_id"]][0] += iou
                    sums[a["category_id"]][1] += 1
                    matched[0].add(a["id"])
                    matched[1].add(b["id"])
        for b in found.segments:
            crowds = [
                sets[0][a["id"]] for a in truth.segments
                if a["iscrowd"] and a["category_id"] == b["category_id"]
            ]  # fmt: skip
            own = sets[1][b["id"]]
            ignored = len(own & void) + sum(len(own & crowd) for crowd in crowds)
            if b["id"] not in matched[1] and ignored <= len(own) / 2:
                sums[b["category_id"]][2] += 1
        for a in truth.segments:
            sums[a["category_id"]][3] += a["id"] not in matched[0] and not a["iscrowd"]
    return {k: iou / (tp + fp / 2 + fn / 2) for k, (iou, tp, fp, fn) in sums.items()}


def drawn(rng, centres, jitter):
    """A partition of 12 × 15 pixels around moved centres; every third cell may be void."""
    y, x = np.mgrid[:12, :15]
    moved = centres + rng.normal(0, jitter, centres.shape)
    cells = ((y[..., None] - moved[:, 0]) ** 2 + (x[..., None] - moved[:, 1]) ** 2).argmin(-1)
    ids = np.where((cells % 3 == 2) & (rng.random() < 0.7), 0, cells + 1).astype(np.int32)
    segments = [
        {"id": int(i), "category_id": (1, 2, 9, 1, 9)[(i - 1) % 5], "area": int((ids == i).sum()),
         "iscrowd": int(i == 4 and rng.random() < 0.5)}
        for i in np.unique(ids[ids > 0])
    ]  # fmt: skip
    return Partition(ids, segments)


def test_random_partitions_agree_with_the_definition():
    rng = np.random.default_rng(0)
    images = []
    for _ in range(30):
        centres = rng.uniform(0, (12, 15), (6, 2))
        images.append((drawn(rng, centres, 0.0), drawn(rng, centres, 1.2)))
    records = [record for truth, found in images for record in match_segments(truth, found)]
    table = panoptic_table(records, CATEGORIES)
    expected = slow_quality(images)
    for category in CATEGORIES:
        ours = table.per_class[category["name"]]["PQ"]
        assert ours == pytest.approx(expected[category["id"]], abs=1e-12)
        assert 0.1 < ours < 0.9
    assert table.stats["PQ"] == pytest.approx(np.mean(list(expected.values())))

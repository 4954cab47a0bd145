"""Automatic masks: settings, forms, filters; parity is the golden cases' business."""

import dataclasses

import numpy as np
import pytest

from jaxseg.data.segmentation import decode_segmentation
from jaxseg.errors import UserError
from jaxseg.predict import AutomaticMaskGenerator, draw_masks, mask_generator
from jaxseg.predict.automatic import PRESETS, Found, settings
from jaxseg.predict.crops import Crop, make_crops
from jaxseg.predict.regions import remove_small_regions
from tests.predict.small_sam import small_sam

ALL = {
    "points_per_side": 3, "pred_iou_thresh": -1.0, "stability_score_thresh": 0.0,
    "box_nms_thresh": 0.95,
}  # fmt: skip
IMAGE = np.random.default_rng(0).integers(0, 256, (60, 100, 3), np.uint8)


@pytest.fixture(scope="module")
def weights():
    return small_sam()


@pytest.fixture(scope="module")
def records(weights):
    return AutomaticMaskGenerator(*weights, **ALL).generate(IMAGE)


def test_a_record_is_the_releases(records):
    assert records
    for record in records:
        mask = record["segmentation"]
        assert mask.shape == (60, 100)
        assert record["area"] == mask.sum()
        rows, columns = np.nonzero(mask)
        x, y, w, h = record["bbox"]
        if record["area"]:
            assert (x, y, x + w, y + h) == (
                columns.min(), rows.min(), columns.max(), rows.max()
            )  # fmt: skip
        assert record["crop_box"] == [0, 0, 100, 60]
        assert len(record["point_coords"]) == 1
        assert isinstance(record["predicted_iou"], float)
    ious = [record["predicted_iou"] for record in records]
    assert ious == sorted(ious, reverse=True)


@pytest.mark.parametrize("mode", ["uncompressed_rle", "coco_rle"])
def test_run_lengths_are_the_same_masks(weights, records, mode):
    found = AutomaticMaskGenerator(*weights, output_mode=mode, **ALL).generate(IMAGE)
    for one, other in zip(found, records, strict=True):
        mask = decode_segmentation(one["segmentation"], 60, 100)
        np.testing.assert_array_equal(mask, other["segmentation"])


def test_batches_of_points_change_nothing(weights, records):
    found = AutomaticMaskGenerator(*weights, points_per_batch=4, **ALL).generate(IMAGE)
    assert len(found) == len(records)
    for one, other in zip(found, records, strict=True):
        assert (one["segmentation"] != other["segmentation"]).sum() <= 3
        assert one["point_coords"] == other["point_coords"]


def test_where_nothing_is_sure_there_are_no_masks_with_crops_too(weights):
    for layers in (0, 1):
        sure = AutomaticMaskGenerator(
            *weights, **ALL | {"pred_iou_thresh": 1e6, "crop_n_layers": layers}
        )
        assert sure.generate(IMAGE) == []


def test_masks_of_a_crop_lie_in_it(weights, monkeypatch):
    # Masks of random weights end at every border, where crops drop them.
    monkeypatch.setattr(mask_generator, "near_crop_edge", lambda boxes, *_: boxes[..., 0] < 0)
    found = AutomaticMaskGenerator(*weights, crop_n_layers=1, **ALL).generate(IMAGE)
    boxes = {tuple(record["crop_box"]) for record in found}
    assert len(boxes) > 1
    for record in found:
        x, y, w, h = record["crop_box"]
        outside = record["segmentation"].copy()
        outside[y : y + h, x : x + w] = False
        assert not outside.any()
        (point,) = record["point_coords"]
        assert x <= point[0] <= x + w
        assert y <= point[1] <= y + h


def test_masks_that_cover_the_image_are_dropped_on_request(weights, records):
    share = max(record["area"] for record in records) / IMAGE[..., 0].size
    kept = AutomaticMaskGenerator(*weights, max_mask_coverage=share, **ALL).generate(IMAGE)
    assert 0 < len(kept) < len(records)
    assert all(record["area"] < share * IMAGE[..., 0].size for record in kept)


def test_sa1bs_settings_are_those_of_the_paper():
    made = PRESETS["sa1b"]
    assert [len(grid) for grid in made.grids()] == [1024, 256, 64]
    assert len(make_crops((1500, 2250), made.crop_n_layers, made.crop_overlap_ratio)) == 21
    assert (made.pred_iou_thresh, made.stability_score_thresh) == (0.88, 0.95)
    assert (made.min_mask_region_area, made.max_mask_coverage) == (100, 0.95)
    assert made.drop_small_masks


def test_a_mask_of_specks_alone_is_dropped_or_keeps_the_largest(weights):
    mask = np.zeros((20, 20), bool)
    mask[2:4, 2:4] = mask[10:13, 10:13] = True
    cleaned, changed = remove_small_regions(mask, 50, "islands")
    assert changed
    assert cleaned.sum() == 9
    speck = _found(mask)
    for drop, count in ((False, 1), (True, 0)):
        generator = AutomaticMaskGenerator(
            *weights, min_mask_region_area=50, drop_small_masks=drop, **ALL
        )
        assert len(generator._without_small_regions([speck], (20, 20))) == count


def _found(mask):
    from jaxseg.data.segmentation import run_lengths

    crop = Crop((0, 0, 20, 20), 0)
    box = np.array([2, 2, 12, 12])
    return Found(run_lengths(mask), box, 0.9, 0.9, np.array([3.0, 3.0]), crop)


def test_masks_are_drawn_over_the_image(records):
    masks = [record["segmentation"] for record in records]
    picture = np.asarray(draw_masks(IMAGE, masks))
    covered = np.any(masks, 0)
    assert (picture != IMAGE).any(-1)[covered].mean() > 0.9
    np.testing.assert_array_equal(picture[~covered], IMAGE[~covered])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"points_per_side": None}, "either points_per_side or point_grids; got neither"),
        ({"point_grids": [np.zeros((1, 2))]}, "either points_per_side or point_grids; got both"),
        ({"output_mode": "png"}, "must be one of binary_mask, .*; got 'png'"),
        ({"points_per_batch": 0}, "points_per_batch must be a whole number, 1 or more; got 0"),
        ({"crop_n_layers": -1}, "crop_n_layers must be a whole number, 0 to 8; got -1"),
        (
            {"points_per_side": None, "point_grids": [np.zeros((1, 2))], "crop_n_layers": 1},
            "needs 2 point_grids, .*; got 1",
        ),
        (
            {"points_per_side": 1, "crop_n_layers": 1, "crop_n_points_downscale_factor": 2},
            r"that of layer 1 is \(0, 2\)",
        ),
        ({"crop_n_layers": 1.0}, "crop_n_layers must be a whole number, 0 to 8; got 1.0"),
        ({"box_nms_thresh": -3}, r"box_nms_thresh must lie in \[0, 1\]; got -3"),
        ({"crop_overlap_ratio": 1.5}, r"crop_overlap_ratio must lie in \[0, 1\]; got 1.5"),
        (
            {"points_per_side": None, "point_grids": [np.array([[0.5, 2.0]])]},
            r"points of a grid must lie in \[0, 1\]; layer 0's do not",
        ),
        ({"points": 3}, "no setting 'points'; there are points_per_side, "),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        settings("release", **changes)
    with pytest.raises(UserError, match="no preset 'best'; there are release, sa1b"):
        settings("best")


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (3, 5), (6, 6)])
def test_images_of_a_few_pixels_have_fewer_crops(weights, size):
    crops = make_crops(size, 2, 512 / 1500)
    assert crops[0].size == size
    for crop in crops:
        left, top, right, bottom = crop.box
        assert 0 <= left < right <= size[1]
        assert 0 <= top < bottom <= size[0]
    few = ALL | {"points_per_side": 1, "crop_n_layers": 2}
    found = AutomaticMaskGenerator(*weights, **few).generate(IMAGE[: size[0], : size[1]])
    assert isinstance(found, list)


def test_presets_are_changed_by_name():
    assert settings("sa1b", points_per_side=8) == dataclasses.replace(
        PRESETS["sa1b"], points_per_side=8
    )

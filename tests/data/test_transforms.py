from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from jaxseg.data.dataset import Example
from jaxseg.data.edits import Crop, Flip, Resize
from jaxseg.data.transforms import (
    Chain,
    Either,
    FixedSize,
    RandomCrop,
    RandomFlip,
    RandomResize,
    ScaleJitter,
    ShortSide,
    apply,
    detr_augmentation,
    evaluation_transform,
    final_size,
    short_side_size,
    small_set_augmentation,
)
from tests.data.files import picture


def example(height=6, width=8, boxes=((1, 2, 4, 5), (0, 0, 8, 6))) -> Example:
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    masks = np.zeros((len(boxes), height, width), bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.astype(int), strict=True):
        mask[y1:y2, x1:x2] = True
    return Example(
        image=picture(height, width),
        boxes=boxes,
        labels=np.arange(len(boxes), dtype=np.int32),
        area=(boxes[:, 2:] - boxes[:, :2]).prod(-1),
        iscrowd=np.zeros(len(boxes), bool),
        image_id=1,
        file_name="one.png",
        masks=masks,
    )


CAPTION = "Left: a man, right of the leftmost cup on HIS LEFT"
PHRASES = {
    "caption": CAPTION,
    "names": ("a man", "the leftmost cup on HIS LEFT"),
    "spans": (((6, 11),), ((22, 38), (39, 50))),
    "exhaustive": False,
}


def words(example) -> list[list[str]]:
    return [[example.caption[begin:end] for begin, end in span] for span in example.spans]


def test_a_mirrored_image_is_told_with_left_and_right_exchanged():
    source = replace(example(), **PHRASES)
    flipped = Flip()(source)
    assert flipped.caption == "Right: a man, left of the leftmost cup on HIS RIGHT"
    assert flipped.names == ("a man", "the leftmost cup on HIS RIGHT")
    assert words(source) == [["a man"], ["the leftmost cup", "on HIS LEFT"]]
    assert words(flipped) == [["a man"], ["the leftmost cup", "on HIS RIGHT"]]
    again = Flip()(flipped)
    assert (again.caption, again.names, again.spans) == (CAPTION, source.names, source.spans)
    upside_down = Flip("vertical")(source)
    assert (upside_down.caption, upside_down.names) == (CAPTION, source.names)


def test_classes_keep_their_names_in_a_mirrored_image():
    assert Flip()(replace(example(), names=("left shoe", "sock"))).names == ("left shoe", "sock")


@pytest.mark.parametrize(
    ("size", "short", "long", "expected"),
    [
        ((480, 640), 800, 1333, (800, 1066)),  # 1066.67 is truncated
        ((640, 480), 800, 1333, (1066, 800)),
        ((427, 640), 800, 1333, (800, 1199)),
        ((300, 1000), 800, 1333, (400, 1333)),  # 399.9 is rounded
        ((100, 200), 800, 1333, (666, 1332)),  # 666.5 is rounded to even
        ((800, 1200), 800, 1333, (800, 1200)),
        ((500, 500), 800, 1333, (800, 800)),
        ((400, 3000), 600, None, (600, 4500)),
        ((1, 3000), 800, 1333, (1, 1333)),  # 0.44 would be no image
        ((2000, 1), 800, 1333, (1333, 1)),
    ],
)
def test_short_side_rule_equals_detrs(size, short, long, expected):
    assert short_side_size(size, short, long) == expected


def test_resize_shrinks_with_pillows_antialiased_bilinear_filter():
    row = np.repeat(np.asarray([0, 100, 200, 40], np.uint8)[None, :, None], 3, -1)
    resized = Resize(1, 2)(replace(example(1, 4, ()), image=row))
    # Triangle of half-width 2 around 1 and 3: (75 + 50) / 1.75 and (25 + 150 + 30) / 1.75.
    assert resized.image[0, :, 0].tolist() == [71, 117]


def test_resize_scales_boxes_by_the_true_ratio_of_each_axis():
    resized = Resize(9, 20)(example())
    assert resized.size == (9, 20)
    np.testing.assert_allclose(resized.boxes, [[2.5, 3, 10, 7.5], [0, 0, 20, 9]])
    np.testing.assert_allclose(resized.area, [9 * 3.75, 48 * 3.75])


def test_resize_takes_masks_from_the_nearest_pixel_below():
    mask = np.asarray([[1, 0, 0, 1, 1]], bool)[None]
    source = replace(example(1, 5, ((0, 0, 5, 1),)), masks=mask)
    assert Resize(1, 3)(source).masks.astype(int).tolist() == [[[1, 0, 1]]]
    doubled = Resize(2, 10)(source).masks[0].astype(int)
    assert doubled.tolist() == [[1, 1, 0, 0, 0, 0, 1, 1, 1, 1]] * 2


@pytest.mark.parametrize("axis", ["horizontal", "vertical"])
def test_flip_mirrors_image_boxes_and_masks(axis):
    source, flipped = example(), Flip(axis)(example())
    moved = [4, 2, 7, 5] if axis == "horizontal" else [1, 1, 4, 4]
    assert flipped.boxes.tolist() == [moved, [0, 0, 8, 6]]
    turn = np.fliplr if axis == "horizontal" else np.flipud
    np.testing.assert_array_equal(flipped.image, turn(source.image))
    np.testing.assert_array_equal(flipped.masks[0], turn(source.masks[0]))
    np.testing.assert_array_equal(Flip(axis)(flipped).image, source.image)


def test_crop_clips_boxes_and_drops_what_it_leaves_out():
    boxes = ((1, 2, 4, 5), (0, 0, 8, 6), (0, 0, 3, 6), (5, 4, 8, 6))
    source = example(boxes=boxes)
    cropped = Crop(top=1, left=3, height=3, width=4)(source)
    assert cropped.boxes.tolist() == [[0, 1, 1, 3], [0, 0, 4, 3]]
    assert cropped.labels.tolist() == [0, 1]
    assert cropped.area.tolist() == [2, 12]
    np.testing.assert_array_equal(cropped.image, source.image[1:4, 3:7])
    np.testing.assert_array_equal(cropped.masks, source.masks[:2, 1:4, 3:7])


TRANSFORMS = [
    detr_augmentation(),
    detr_augmentation((64, 80), 120, (50, 60), (40, 60)),
    evaluation_transform(64, 100),
    small_set_augmentation(60, 80, vertical=True),
    FixedSize(40, 60),
    RandomCrop(20, 50),
    ScaleJitter(48, 48),
]


@pytest.mark.parametrize("transform", TRANSFORMS[1:])
@pytest.mark.parametrize("size", [(60, 90), (90, 60), (70, 70), (15, 200)])
def test_the_size_is_known_before_the_image(transform, size):
    for seed in range(8):
        edits = transform.draw(size, np.random.default_rng(seed))
        assert apply(edits, example(*size)).size == final_size(edits, size)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_boxes_stay_inside_the_image_and_not_empty(transform):
    size = (48, 64)
    for seed in range(3 if transform is TRANSFORMS[0] else 12):
        out = apply(transform.draw(size, np.random.default_rng(seed)), example(*size))
        height, width = out.size
        assert (out.boxes[:, 2:] > out.boxes[:, :2]).all()
        assert (out.boxes >= 0).all()
        assert (out.boxes <= np.asarray([width, height] * 2) + 1e-3).all()
        assert out.masks.shape == (len(out.boxes), height, width)


def test_detr_augmentation_draws_from_its_lists_and_limits():
    transform, size = detr_augmentation(), (480, 640)
    kinds, shorts, crops = [], set(), []
    for seed in range(400):
        edits = transform.draw(size, np.random.default_rng(seed))
        final = final_size(edits, size)
        shorts.add(min(final))
        assert max(final) <= 1333
        kinds.append("crop" if any(isinstance(e, Crop) for e in edits) else "plain")
        crops += [e for e in edits if isinstance(e, Crop)]
    # A window so long that 1333 limits it has another short side.
    assert {480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800} <= shorts
    assert 150 < kinds.count("crop") < 250
    sides = np.asarray([(c.height, c.width) for c in crops])
    assert sides.min() >= 384
    assert sides.max() <= 600
    assert sides.max() > 590
    assert all(c.top >= 0 and c.left >= 0 for c in crops)


def test_detrs_recipe_is_what_its_code_says():
    # facebookresearch/detr, datasets/coco.py, make_coco_transforms("train").
    scales = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
    resize = RandomResize(scales, 1333)
    crop = Chain((RandomResize((400, 500, 600), None), RandomCrop(384, 600), resize))
    whole = Chain((RandomFlip(0.5, "horizontal"), Either(resize, crop, 0.5)))
    assert detr_augmentation().steps == whole
    assert evaluation_transform() == ShortSide(800, 1333)


def draws(transform, size, count):
    return [transform.draw(size, np.random.default_rng(seed)) for seed in range(count)]


def assert_uniform(values, low, high):
    """Whole numbers from low to high, both of them, without favourites."""
    values = np.asarray(values)
    assert (values.min(), values.max()) == (low, high)
    span = high - low
    # Standard errors of mean and deviation of so many draws, five times.
    error = 5 * span / np.sqrt(12 * len(values))
    assert abs(values.mean() - (low + high) / 2) < error
    assert abs(values.std() - np.sqrt((span + 1) ** 2 - 1) / np.sqrt(12)) < error


def test_the_crop_is_uniform_in_both_sides_and_anywhere():
    crops = [crop for (crop,) in draws(RandomCrop(384, 600), (700, 900), 6000)]
    assert_uniform([c.height for c in crops], 384, 600)
    assert_uniform([c.width for c in crops], 384, 600)
    assert abs(np.corrcoef([c.height for c in crops], [c.width for c in crops])[0, 1]) < 0.07
    free = [(c.top / (700 - c.height), c.left / (900 - c.width)) for c in crops]
    for place in np.transpose(free):
        assert (place.min(), place.max()) == (0, 1)
        assert abs(place.mean() - 0.5) < 0.02
        assert abs(place.std() - 12**-0.5) < 0.01
    assert abs(np.corrcoef(np.transpose(free))[0, 1]) < 0.07


def test_a_crop_keeps_a_side_that_is_shorter_than_its_range():
    crops = [crop for (crop,) in draws(RandomCrop(384, 600), (300, 500), 3000)]
    assert {c.height for c in crops} == {300}
    assert_uniform([c.width for c in crops], 384, 500)


def test_each_of_the_scales_is_drawn_equally_often():
    sizes = [
        final_size(edits, (480, 640))
        for edits in draws(RandomResize((60, 70, 80)), (480, 640), 3000)
    ]
    numbers = np.bincount([min(size) for size in sizes])[[60, 70, 80]]
    assert numbers.sum() == 3000
    assert (abs(numbers - 1000) < 130).all()


@pytest.mark.parametrize("p", [0.5, 0.2])
def test_probabilities_are_those_that_were_asked_for(p):
    flips = [bool(edits) for edits in draws(RandomFlip(p), (9, 9), 3000)]
    assert abs(np.mean(flips) - p) < 0.05
    either = Either(FixedSize(1, 1), FixedSize(2, 2), p)
    first = [final_size(edits, (9, 9)) == (1, 1) for edits in draws(either, (9, 9), 3000)]
    assert abs(np.mean(first) - p) < 0.05


def test_a_chain_draws_each_part_for_the_size_that_the_parts_before_leave():
    edits = Chain((FixedSize(40, 60), RandomCrop(40, 60), ShortSide(20))).draw(
        (9, 9), np.random.default_rng(0)
    )
    assert [type(edit) for edit in edits] == [Resize, Crop, Resize]
    assert edits[1].height == 40
    assert final_size(edits, (9, 9))[0] == 20 or final_size(edits, (9, 9))[1] == 20


def test_evaluation_equals_pillows_resize():
    source = example(60, 80)
    edits = evaluation_transform(40, 1333).draw((60, 80), np.random.default_rng(0))
    by_hand = Image.fromarray(source.image).resize((53, 40), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(apply(edits, source).image, np.asarray(by_hand))


def test_scale_jitter_covers_its_range_and_keeps_the_aspect():
    heights = []
    for seed in range(200):
        (resize, *crop) = ScaleJitter(60, 80).draw((120, 160), np.random.default_rng(seed))
        heights.append(resize.height)
        assert abs(resize.width - resize.height * 4 / 3) <= 1
        assert bool(crop) == (resize.height > 60 or resize.width > 80)
    assert min(heights) in (48, 49)
    assert max(heights) in (74, 75)

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from jaxseg.data import open_dataset
from jaxseg.data.segmentation import decode_segmentation, drawable, encode_mask
from jaxseg.errors import UserError
from tests.data.files import box, picture, shared, two_images


def test_examples_have_their_own_image_and_objects(tmp_path):
    dataset = open_dataset(two_images(tmp_path))
    assert list(dataset.image_ids) == [7, 3]
    assert dataset.sizes.tolist() == [[6, 8], [8, 6]]
    assert dataset.classes.names == ("dog", "cat")
    wide, high = dataset[0], dataset[1]
    np.testing.assert_array_equal(wide.image, picture(6, 8, 1))
    np.testing.assert_array_equal(high.image, picture(8, 6, 2))
    assert wide.boxes.tolist() == [[1, 2, 4, 4], [4, 1, 6, 5]]
    assert wide.labels.tolist() == [1, 0]
    assert high.boxes.tolist() == [[0, 0, 6, 8]]
    assert (wide.image_id, wide.file_name) == (7, "wide.png")


def test_raw_numbering_keeps_the_category_ids(tmp_path):
    dataset = open_dataset(two_images(tmp_path), numbering="raw")
    assert dataset[0].labels.tolist() == [5, 2]
    assert len(dataset.classes) == 6


def test_boxes_are_clamped_to_the_image_and_dropped_if_nothing_is_left(tmp_path):
    annotations = [
        box(1, 7, 5, [-1, -2, 4, 5]),
        box(2, 7, 5, [6, 4, 9, 9]),
        box(3, 7, 2, [8, 0, 3, 3]),
        box(4, 7, 2, [1, 1, 0, 3]),
        box(5, 7, 2, [5, 1, -2, 3]),
    ]
    dataset = open_dataset(two_images(tmp_path, annotations=annotations))
    assert dataset[0].boxes.tolist() == [[0, 0, 3, 3], [6, 4, 8, 6]]
    assert dataset[1].boxes.shape == (0, 4)
    assert len(dataset.coco()["annotations"]) == 5


def test_crowds_are_flagged_and_stay_in_the_ground_truth(tmp_path):
    annotations = [box(1, 7, 5, [1, 1, 2, 2]), box(2, 7, 5, [0, 0, 4, 4], iscrowd=1)]
    dataset = open_dataset(two_images(tmp_path, annotations=annotations))
    assert dataset[0].iscrowd.tolist() == [False, True]
    assert [a["iscrowd"] for a in dataset.coco()["annotations"]] == [0, 1]


def test_ground_truth_has_area_and_ids_that_evaluation_tools_can_use(tmp_path):
    annotations = [
        box(0, 7, 5, [1, 1, 2, 3]),
        box(0, 7, 2, [0, 0, 4, 4], area=9.5),
        box(1, 99, 2, [0, 0, 4, 4]),
    ]
    truth = open_dataset(two_images(tmp_path, annotations=annotations)).coco()
    assert [a["id"] for a in truth["annotations"]] == [1, 2]
    assert [a["area"] for a in truth["annotations"]] == [6, 9.5]
    assert [a["category_id"] for a in truth["annotations"]] == [5, 2]


def test_polygons_and_both_run_lengths_decode_to_the_same_mask():
    expected = np.asarray([[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]], bool)
    polygon = [[1, 1, 3, 1, 3, 3, 1, 3]]
    counts = {"size": [4, 4], "counts": [5, 2, 2, 2, 5]}
    for segmentation in (polygon, counts, encode_mask(expected)):
        np.testing.assert_array_equal(decode_segmentation(segmentation, 4, 4), expected)
    assert not decode_segmentation([], 4, 4).any()


@pytest.mark.parametrize(
    "segmentation",
    [
        {"size": [4, 4], "counts": [5, 2]},
        {"size": [4, 5], "counts": [20]},
        {"size": [4, 4]},
        {"size": 4, "counts": [16]},
        {"size": [4, 4], "counts": ""},
        [[1, 1, 2, 2, 3]],
        [[0, 0, 1, float("nan"), 3, 3]],
        "polygon",
    ],
)
def test_masks_that_are_none_are_refused(segmentation):
    with pytest.raises(ValueError, match=r"."):
        decode_segmentation(segmentation, 4, 4)


def test_a_damaged_mask_names_its_annotation(tmp_path):
    annotations = [box(41, 7, 5, [1, 1, 2, 2], segmentation=[[1, 1, 2]])]
    dataset = open_dataset(two_images(tmp_path, annotations=annotations), masks=True)
    with pytest.raises(UserError, match=r"annotation 41 \(image wide.png\)"):
        dataset[0]


def test_masks_of_a_data_set_without_masks_are_refused(tmp_path):
    with pytest.raises(UserError, match="no masks"):
        open_dataset(two_images(tmp_path), masks=True)


def test_an_object_without_a_mask_is_refused_where_masks_are_wanted(tmp_path):
    square = [[1, 1, 3, 1, 3, 3, 1, 3]]
    annotations = [
        box(40, 7, 5, [1, 1, 2, 2], segmentation=square),
        box(41, 7, 5, [0, 0, 4, 4], iscrowd="1"),
        box(42, 7, 2, [2, 2, 2, 0]),  # dropped: its box is empty
        box(43, 3, 2, [0, 0, 2, 2]),
        box(44, 3, 2, [1, 0, 2, 2], segmentation=[]),
    ]
    path = two_images(tmp_path, annotations=annotations)
    with pytest.raises(
        UserError, match=r"annotation 43 of image 3 has no mask, and so have 1"
    ) as e:
        open_dataset(path, masks=True)
    assert "data.masks=false" in str(e.value)
    assert "jaxseg eval --boxes" in str(e.value)
    assert len(open_dataset(path)[1].boxes) == 2
    two_images(tmp_path, annotations=annotations[:3])
    assert open_dataset(path, masks=True)[0].masks.any((1, 2)).tolist() == [True, False]


def test_polygons_of_two_points_cover_nothing():
    polygon = [1, 1, 3, 1, 3, 3, 1, 3]
    assert drawable([[0, 0, 4, 4], polygon]) == [polygon]
    assert decode_segmentation([[0, 0, 4, 4], polygon], 4, 4).sum() == 4
    assert not decode_segmentation([[0, 0, 4, 4]], 4, 4).any()


def test_roboflow_folders_open_without_their_group_category(tmp_path):
    path = two_images(
        tmp_path / "train",
        categories=[
            {"id": 0, "name": "pets", "supercategory": "none"},
            {"id": 2, "name": "dog", "supercategory": "pets"},
            {"id": 5, "name": "cat", "supercategory": "pets"},
        ],
    )
    path.rename(path.with_name("_annotations.coco.json"))
    dataset = open_dataset(tmp_path / "train")
    assert dataset.classes.names == ("dog", "cat")
    assert {c["id"] for c in dataset.coco()["categories"]} == {2, 5}
    assert len(open_dataset(tmp_path)) == 2  # there is no other
    (tmp_path / "valid").mkdir()
    shutil.copy(tmp_path / "train/_annotations.coco.json", tmp_path / "valid")
    with pytest.raises(UserError, match="several data sets"):
        open_dataset(tmp_path)


def test_coco_layout_opens_by_root_and_split(tmp_path):
    path = two_images(tmp_path / "val2017")
    (tmp_path / "annotations").mkdir()
    path.rename(tmp_path / "annotations" / "instances_val2017.json")
    assert len(open_dataset(f"coco:{tmp_path}/val2017")) == 2
    assert len(open_dataset(tmp_path / "annotations" / "instances_val2017.json")) == 2
    with pytest.raises(UserError, match="name one of coco:"):
        open_dataset(tmp_path)


def test_images_elsewhere_are_found_where_the_option_says(tmp_path):
    path = two_images(tmp_path / "a")
    (tmp_path / "b").mkdir()
    path = path.rename(tmp_path / "b" / "labels.json")
    with pytest.raises(UserError, match=r"images=DIR"):
        open_dataset(path)
    assert len(open_dataset(path, images=str(tmp_path / "a"))) == 2
    assert len(open_dataset(f"{path}?images={tmp_path / 'a'}")) == 2


def test_sizes_come_from_the_files_where_the_json_has_none(tmp_path):
    images = [{"id": 7, "file_name": "wide.png"}, {"id": 3, "file_name": "high.png"}]
    assert open_dataset(two_images(tmp_path, images=images)).sizes.tolist() == [[6, 8], [8, 6]]


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    path = two_images(tmp_path)
    grey = np.full((6, 8), 257 * 100, np.uint16)
    Image.fromarray(grey).save(tmp_path / "wide.png")
    assert (open_dataset(path)[0].image == 100).all()


def test_stored_pixels_are_read_whatever_exif_says(tmp_path):
    path = two_images(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(6, 8, 1)).save(tmp_path / "wide.png", exif=exif)
    np.testing.assert_array_equal(open_dataset(path)[0].image, picture(6, 8, 1))


def broken_json(path):
    path.write_text(path.read_text()[:-20])


def no_list(path):
    path.write_text("[1, 2]")


def edited(**changes):
    def edit(path):
        content = json.loads(path.read_text())
        path.write_text(json.dumps({**content, **changes}))

    return edit


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (broken_json, "instances.json is not valid JSON"),
        (no_list, "no list 'images'"),
        (edited(images=[]), "is empty"),
        (edited(categories=[]), "no categories"),
        (edited(annotations=[box(9, 7, 77, [0, 0, 1, 1])]), "annotation 9.*unknown category 77"),
        (edited(annotations=[box(9, 7, 5, [0, float("nan"), 1, 1])]), "annotation 9.*finite"),
        (edited(annotations=[box(9, 7, 5, [0, 1])]), "annotation 9.*bbox"),
        (
            edited(images=[{"id": 1, "file_name": "wide.png", "height": 6, "width": 8}] * 2),
            "image id 1 occurs twice",
        ),
        (lambda path: (path.parent / "high.png").unlink(), "high.png, named in .* does not exist"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_by_name(tmp_path, damage, message):
    path = two_images(tmp_path)
    damage(path)
    with pytest.raises(UserError, match=message):
        open_dataset(path)


def test_a_truncated_image_is_named_when_it_is_read(tmp_path):
    path = two_images(tmp_path)
    file = tmp_path / "high.png"
    file.write_bytes(file.read_bytes()[:-60])
    dataset = open_dataset(path)
    assert dataset[0].size == (6, 8)
    with pytest.raises(UserError, match=r"high\.png cannot be read"):
        dataset[1]


def test_an_image_of_another_size_is_named_with_both_sizes(tmp_path):
    path = two_images(tmp_path)
    Image.fromarray(picture(8, 6)).save(tmp_path / "wide.png")
    with pytest.raises(UserError, match=r"wide.png is 6 x 8 .* state 8 x 6 \(swapped"):
        open_dataset(path)[0]


def test_unknown_places_kinds_and_options_are_refused(tmp_path):
    path = two_images(tmp_path)
    for spec, message in (
        (tmp_path / "none.json", f"none.json does not exist: .* has {path.name}"),
        (tmp_path / "no" / "none.json", "does not exist: there is no folder .*no either"),
        (tmp_path / "none", "no data set"),
        ("voc:somewhere", "unknown kind of data set voc:"),
        (f"{path}?mask=1", "unknown option 'mask'.*masks"),
        (f"{path}?masks=maybe", "true or false; got 'maybe'"),
    ):
        with pytest.raises(UserError, match=message):
            open_dataset(spec)


def test_real_coco_masks_fill_their_stated_areas():
    dataset = open_dataset(shared("coco_ccby/instances_mini.json"), masks=True)
    crowds = 0
    for example in map(dataset.__getitem__, range(len(dataset))):
        crowds += example.iscrowd.sum()
        drawn = example.masks.sum((1, 2))
        assert (np.abs(drawn - example.area) <= 0.12 * example.area + 25).all()
        for mask, (x1, y1, x2, y2) in zip(example.masks, example.boxes, strict=True):
            rows, columns = np.nonzero(mask)
            assert columns.min() >= x1 - 6
            assert columns.max() <= x2 + 6
            assert rows.min() >= y1 - 6
            assert rows.max() <= y2 + 6
    assert crowds == 3


def test_real_nuclei_masks_equal_their_areas():
    dataset = open_dataset(shared("dsb2018_nuclei/instances_val.json"), masks=True)
    for example in map(dataset.__getitem__, range(4)):
        np.testing.assert_array_equal(example.masks.sum((1, 2)), example.area)

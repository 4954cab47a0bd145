"""COCO's panoptic form as a data set."""

import json
import pickle

import numpy as np
import pytest
from PIL import Image

from jaxseg.cli import main
from jaxseg.data import open_dataset
from jaxseg.data.classes import COCO_PANOPTIC, Classes
from jaxseg.data.doctor import examine
from jaxseg.data.loader import Loader
from jaxseg.data.pack import pack
from jaxseg.data.panoptic import colours_of_ids, ids_of_colours
from jaxseg.data.transforms import (
    Chain,
    FixedSize,
    RandomCrop,
    RandomFlip,
    detr_augmentation,
    small_set_augmentation,
)
from jaxseg.errors import UserError
from tests.data.panoptic_files import CATEGORIES, HEIGHT, stripes


def edited(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


def test_ids_are_the_colours_of_the_png():
    ids = np.asarray([[0, 255, 256], [65536, 2**24 - 1, 70031]], np.int32)
    colours = colours_of_ids(ids)
    assert colours[1, 2].tolist() == [143, 17, 1]
    np.testing.assert_array_equal(ids_of_colours(colours), ids)


def test_every_segment_is_an_object_with_its_mask(tmp_path):
    stripes(tmp_path)
    dataset = open_dataset(f"panoptic:{tmp_path}/val", masks=True)
    assert len(dataset) == 3
    assert dataset.classes == Classes(("red", "green", "blue"), (3, 5, 120), {2})
    example = dataset[1]
    assert example.size == (HEIGHT, 96)
    np.testing.assert_array_equal(example.labels, [2, 0])
    columns = np.arange(96)
    expected = [(columns < 24) | (columns >= 80), (columns >= 40) & (columns < 80)]
    np.testing.assert_array_equal(example.masks[:, 0], expected)
    # A box ends at its last pixel, as the published weights were trained.
    np.testing.assert_array_equal(example.boxes, [[0, 0, 95, 63], [40, 0, 79, 63]])
    plain = open_dataset(f"panoptic:{tmp_path}/val")[1]
    assert plain.masks is None
    np.testing.assert_array_equal(plain.boxes, example.boxes)


def test_raw_labels_are_category_ids_and_stuff_is_known(tmp_path):
    dataset = open_dataset(f"panoptic:{stripes(tmp_path)}", numbering="raw")
    assert len(dataset.classes) == 121
    assert dataset.classes.stuff == {120}
    assert dataset[0].labels.tolist() == [3, 120, 5]
    assert COCO_PANOPTIC.names[187] == "sky-other-merged"
    assert (COCO_PANOPTIC.things[90], COCO_PANOPTIC.things[92]) == (True, False)
    assert Classes.from_json(json.loads(json.dumps(COCO_PANOPTIC.to_json()))) == COCO_PANOPTIC


def test_the_ground_truth_has_crowds_and_whole_boxes_and_workers_leave_it_behind(tmp_path):
    def crowd(content):
        content["annotations"][1]["segments_info"][1]["iscrowd"] = 1

    dataset = open_dataset(f"panoptic:{edited(stripes(tmp_path), crowd)}")
    assert not dataset[1].iscrowd.any()  # a target like others
    truth = dataset.coco()
    assert [a["iscrowd"] for a in truth["annotations"]] == [0, 0, 0, 0, 1, 0]
    assert truth["annotations"][4]["bbox"] == [40, 0, 40, HEIGHT]
    assert truth["categories"] == CATEGORIES
    partition = dataset.panoptic(1)
    assert partition.ids[0, 30] == 0
    assert {s["id"] for s in partition.segments} == set(np.unique(partition.ids)) - {0}
    assert "_segments" not in pickle.loads(pickle.dumps(dataset)).__dict__


def test_a_segment_of_one_pixel_keeps_a_box(tmp_path):
    layout = [[("red", 1), ("blue", 64)]]
    dataset = open_dataset(f"panoptic:{stripes(tmp_path, layout)}", masks=True)
    np.testing.assert_array_equal(dataset[0].boxes[0], [0, 0, 1, 63])


def move_images(content):
    content["images"][0]["file_name"] = "none.png"


def drop_annotation(content):
    del content["annotations"][2]


def boxes_alone(content):
    content["annotations"] = [{"image_id": 11, "bbox": [0, 0, 1, 1], "category_id": 3}]


def void_segment(content):
    content["annotations"][0]["segments_info"][0]["id"] = 0


def no_box(content):
    del content["annotations"][0]["segments_info"][0]["bbox"]


def no_image(content):
    del content["annotations"][0]["image_id"]


def unknown_category(content):
    content["annotations"][0]["segments_info"][0]["category_id"] = 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (move_images, "none.png"),
        (drop_annotation, "the image 13 has no annotation"),
        (boxes_alone, "needs a file_name and a list segments_info; that of image 11 has not"),
        (void_segment, "needs an id from 1 to .* got 0"),
        (no_box, "its bbox must be"),
        (unknown_category, "unknown category 4"),
        (no_image, "needs an image_id; got None"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path, change, message):
    path = edited(stripes(tmp_path), change)
    with pytest.raises(UserError, match=message):
        open_dataset(f"panoptic:{path}")


def test_files_that_are_not_there_are_told_where_they_were_looked_for(tmp_path):
    path = stripes(tmp_path)
    with pytest.raises(UserError, match=r"no panoptic data set .*annotations/panoptic_train\.json"):
        open_dataset(f"panoptic:{tmp_path}/train")
    path.with_suffix("").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="segments=DIR"):
        open_dataset(f"panoptic:{path}")
    found = open_dataset(f"panoptic:{path}?segments={tmp_path}/elsewhere&masks=1")
    assert found[0].masks.any()
    with pytest.raises(UserError, match=f"is panoptic ground truth: open it as panoptic:{path}"):
        open_dataset(path)
    (tmp_path / "val").rename(tmp_path / "photos")
    with pytest.raises(UserError, match=rf"command line, panoptic:{path}\?images=DIR"):
        open_dataset(f"panoptic:{path}")
    (tmp_path / "photos").rename(tmp_path / "val")
    with pytest.raises(UserError, match="cannot be packed"):
        pack({"val": found}, tmp_path / "packed")


def test_a_segment_without_a_pixel_and_a_png_of_another_size_are_refused(tmp_path):
    path = stripes(tmp_path)
    edited(path, lambda c: c["annotations"][0]["segments_info"][0].update(id=77))
    dataset = open_dataset(f"panoptic:{path}", masks=True)
    with pytest.raises(UserError, match=r"11\.png has no pixel of the segment 77"):
        dataset[0]
    Image.new("RGB", (5, 5)).save(path.with_suffix("") / "12.png")
    with pytest.raises(UserError, match=r"12\.png is 5 x 5 pixels"):
        dataset[1]


def found(path) -> dict[str, list]:
    """What the doctor finds: details by kind, marked where they would break training."""
    kinds = {}
    for finding in examine(f"panoptic:{path}", progress=False).findings:
        kinds.setdefault((finding.kind, finding.broken), []).append(finding.detail)
    return kinds


def test_sound_panoptic_data_has_no_findings(tmp_path, capsys):
    path = stripes(tmp_path)
    assert found(f"{path}?masks=1") == {}
    assert main(["doctor", f"panoptic:{tmp_path}/val"]) == 0
    said = capsys.readouterr().out
    assert "3 images, 6 objects" in said
    assert said.split("green")[1].split()[:2] == ["2", "2"]


def test_every_fault_of_the_png_files_is_found(tmp_path):
    path = stripes(tmp_path, [[("red", 16), ("blue", 64)]] * 6)
    pngs = [path.with_suffix("") / f"{n}.png" for n in range(11, 17)]
    edited(path, lambda c: c["annotations"][0]["segments_info"][0].update(id=77))
    edited(path, lambda c: c["annotations"][0]["segments_info"][1].update(id=78))
    pngs[1].unlink()
    pngs[2].unlink()
    pngs[3].write_bytes(pngs[3].read_bytes()[:60])
    Image.new("RGB", (5, 5), (300 - 256, 1, 0)).save(pngs[4])
    (tmp_path / "val" / "16.png").unlink()
    kinds = found(path)
    assert {kind: len(details) for kind, details in kinds.items()} == {
        ("missing image", True): 1,
        ("segment without a pixel", True): 4,
        ("pixels of no listed segment", False): 3,
        ("missing PNG", True): 2,
        ("unreadable PNG", True): 1,
        ("PNG of another size than stated", True): 1,
    }
    assert kinds["missing PNG", True] == [str(pngs[1]), str(pngs[2])]
    assert "14.png: " in kinds["unreadable PNG", True][0]
    assert "15.png is 5 x 5 pixels" in kinds["PNG of another size than stated", True][0]
    assert kinds["segment without a pixel", True][:2] == [
        f"{pngs[0]}: 77 is listed", f"{pngs[0]}: 78 is listed",
    ]  # fmt: skip
    for png in pngs:
        png.unlink(missing_ok=True)
    kinds = found(path)
    assert "segments=DIR" in kinds["cannot be opened", True][0]
    assert ("missing image", True) in kinds, "the images are examined all the same"


@pytest.mark.parametrize(
    ("change", "kind", "broken"),
    [
        ({"area": None}, "unusable area", False),
        ({"category_id": 4}, "unknown category", True),
        ({"bbox": [0, 0, 1]}, "unusable box", True),
        ({"bbox": [70, 0, 5, 5]}, "box outside the image", False),
        ({"id": 0}, "unusable segment id", True),
        ({"id": "7"}, "unusable segment id", True),
    ],
)
def test_each_fault_of_a_segment_is_found(tmp_path, change, kind, broken):
    path = stripes(tmp_path)
    edited(path, lambda c: c["annotations"][0]["segments_info"][0].update(change))
    kinds = found(path)
    kinds.pop(("pixels of no listed segment", False), None)
    assert list(kinds) == [(kind, broken)]
    assert "(image 11)" in kinds[kind, broken][0]


def test_faults_of_the_panoptic_list_are_found(tmp_path):
    def damage(content):
        first, second, third = content["annotations"]
        del first["segments_info"][0]["area"]
        second["segments_info"].append(second["segments_info"][0])
        third["segments_info"] = []
        unknown = [third | {"image_id": image} for image in (99, [1])]
        content["annotations"] += [second, *unknown, {"image_id": 14, "file_name": "14.png"}]
        content["images"] += [content["images"][0] | {"id": n} for n in (14, 15)]

    kinds = found(edited(stripes(tmp_path), damage))
    assert set(kinds) == {
        ("file listed twice", False),
        ("segment without an area", False),
        ("segment listed twice", True),
        ("image annotated twice", True),
        ("annotation of an unknown image", False),
        ("annotation without segments", True),
        ("image without an annotation", True),
        ("image without segments", False),
        ("pixels of no listed segment", False),
    }
    assert len(kinds["annotation of an unknown image", False]) == 2


def test_the_doctor_says_how_panoptic_data_are_named(tmp_path, capsys):
    path = stripes(tmp_path)
    assert main(["doctor", str(path)]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert f"open it as panoptic:{path}" in said
    assert "unknown category" not in said


AUGMENTATIONS = {
    "flip": RandomFlip(1.0),
    "vertical": RandomFlip(1.0, axis="vertical"),
    "stretch": FixedSize(96, 128),
    "crop": RandomCrop(40, 60),
    "jitter": small_set_augmentation(128, 128, vertical=True),
    "detr": detr_augmentation((64, 80, 96), 128, (72, 90), (48, 60)),
    "all": Chain((RandomFlip(1.0), FixedSize(100, 90), RandomCrop(50, 80))),
}


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_masks_stay_on_their_pixels_through_every_augmentation(tmp_path, name):
    stripes(tmp_path)
    dataset = open_dataset(f"panoptic:{tmp_path}/val", masks=True)
    loader = Loader(
        dataset,
        batch_size=3,
        buckets=((128, 128),),
        transform=AUGMENTATIONS[name],
        max_targets=4,
        seed=3,
        masks=True,
    )
    for step in range(3):
        batch = loader.batch(step)
        targets = batch.targets
        assert targets.masks.shape == (3, 4, 128, 128)
        assert not targets.masks[~targets.mask].any()
        assert not (targets.masks & ~batch.images.mask[:, None]).any()
        assert targets.mask.any(1).all()
        for row, slot in zip(*np.nonzero(targets.mask), strict=True):
            channel = batch.images.pixels[row, ..., targets.labels[row, slot]]
            mask = targets.masks[row, slot]
            # Blurred edges aside, a mask covers its own colour and all of it.
            assert channel[mask].mean() > 200
            outside = channel[~mask & batch.images.mask[row]]
            assert outside.sum() <= 40 * outside.size

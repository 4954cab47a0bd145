import json

import pytest
from PIL import Image

from jaxseg.cli import main
from jaxseg.data import open_dataset
from jaxseg.data.doctor import examine
from jaxseg.errors import UserError
from tests.data.files import box, picture, shared, two_images

SQUARE = [[1, 1, 3, 1, 3, 3, 1, 3]]


def kinds(path) -> dict[str, bool]:
    return {f.kind: f.broken for f in examine(str(path), progress=False).findings}


def test_a_sound_data_set_has_no_findings(tmp_path, capsys):
    path = two_images(tmp_path)
    assert main(["doctor", str(path)]) == 0
    out = capsys.readouterr().out
    assert "2 images, 3 objects" in out
    assert "Nothing would break training." in out
    assert out.split("dog")[1].split()[:2] == ["2", "2"]
    assert kinds(path) == {}


def test_what_cannot_be_read_is_not_said_to_be_empty(tmp_path, capsys):
    path = tmp_path / "cells.json"
    path.write_text("{")
    assert main(["doctor", str(path)]) == 1
    assert capsys.readouterr().out.startswith(f"{path}: cannot be read\n")


@pytest.mark.parametrize(
    ("annotation", "kind", "broken"),
    [
        (box(9, 7, 77, [1, 1, 2, 2]), "unknown category", True),
        (box(9, 7, None, [1, 1, 2, 2]), "unknown category", True),
        (box(9, 7, [5], [1, 1, 2, 2]), "unknown category", True),
        (box([9], 7, 5, [1, 1, 2, 2]), "annotation without an id", False),
        (box(9, 7, 5, [1, float("nan"), 2, 2]), "unusable box", True),
        (box(9, 7, 5, [1, 2, 2]), "unusable box", True),
        (box(9, 7, 5, None), "unusable box", True),
        (box(9, 7, 5, [1, 1, 0, 2]), "empty box", False),
        (box(9, 7, 5, [9, 1, 2, 2]), "box outside the image", False),
        (box(9, 7, 5, [5, 1, 6, 2]), "box partly outside the image", False),
        (box(1, 7, 5, [1, 1, 2, 2]), "duplicate annotation id", False),
        (box(None, 7, 5, [1, 1, 2, 2]), "annotation without an id", False),
        (box(9, 99, 5, [1, 1, 2, 2]), "annotation of an unknown image", False),
        (box(9, 7, 5, [1, 2, 3, 2]), "the same box twice", False),
        (box(9, 7, 5, [1, 1, 2, 2], segmentation=[]), "empty mask", False),
        (box(9, 7, 5, [1, 1, 2, 2], segmentation=[[1, 1, 2, 2]]), "empty mask", False),
        (box(9, 7, 5, [1, 1, 2, 2], segmentation=[[1, 1, 2]]), "unusable mask", True),
        (
            box(9, 7, 5, [1, 1, 2, 2], segmentation={"size": [6, 8], "counts": [3]}),
            "unusable mask",
            True,
        ),
        (box(9, 7, 5, [1, 1, 2, 2], area=None), "unusable area", False),
    ],
)
def test_each_fault_of_an_annotation_is_found(tmp_path, annotation, kind, broken):
    path = two_images(tmp_path)
    content = json.loads(path.read_text())
    if "segmentation" in annotation:
        content["annotations"] = [a | {"segmentation": SQUARE} for a in content["annotations"]]
    content["annotations"].append(annotation)
    path.write_text(json.dumps(content))
    assert kinds(path) == {kind: broken}


def test_an_object_without_a_mask_is_named_where_others_have_one(tmp_path):
    annotations = [
        box(1, 7, 5, [1, 1, 2, 2], segmentation=SQUARE),
        box(2, 3, 2, [0, 0, 6, 8]),
        box(3, 3, 2, [1, 1, 2, 2], segmentation=[]),
    ]
    report = examine(str(two_images(tmp_path, annotations=annotations)), progress=False)
    assert report.ok, "boxes can be trained"
    details = {f.kind: f.detail for f in report.findings}
    assert set(details) == {"object without a mask", "empty mask"}
    assert "annotation 2 (image 3)" in details["object without a mask"]
    assert "masks need it mended" in details["empty mask"]


def test_each_fault_of_a_file_is_found(tmp_path, capsys):
    images = [
        {"id": n, "file_name": name, "height": 6, "width": 8}
        for n, name in enumerate(("wide.png", "gone.png", "cut.png", "small.png", "turned.png"))
    ]
    path = two_images(tmp_path, images=images, annotations=[])
    whole = (tmp_path / "wide.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    Image.fromarray(picture(3, 4)).save(tmp_path / "small.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(6, 8)).save(tmp_path / "turned.png", exif=exif)
    report = examine(str(path), progress=False)
    found = {(f.kind, f.broken) for f in report.findings if "without annotations" not in f.kind}
    assert found == {
        ("missing image", True),
        ("unreadable image", True),
        ("image of another size than stated", True),
        ("image turned by EXIF", False),
    }
    named = {f.kind: f.detail for f in report.findings}
    assert "cut.png" in named["unreadable image"]
    assert main(["doctor", str(path)]) == 1
    out = capsys.readouterr().out
    assert "missing image: 1" in out
    assert "gone.png" in out
    assert "image without annotations: 5" in out


def test_faults_of_the_lists_are_found(tmp_path):
    image = {"id": 7, "file_name": "wide.png", "height": 6, "width": 8}
    path = two_images(
        tmp_path,
        images=[image, image, {"file_name": "high.png"}, {"id": 8}],
        categories=[{"id": 5, "name": "cat"}, {"id": 5, "name": "cat"}, {"name": "x"}],
        annotations=[],
    )
    assert kinds(path) == {
        "duplicate category id": True,
        "category name used twice": False,
        "category without an id": True,
        "duplicate image id": True,
        "file listed twice": False,
        "image without an id": True,
        "image without a file name": True,
        "image without annotations": False,
    }


def test_what_cannot_be_opened_is_a_finding_and_not_a_crash(tmp_path, capsys):
    path = two_images(tmp_path)
    path.write_text(path.read_text()[:40])
    assert main(["doctor", str(path)]) == 1
    assert "not valid JSON" in capsys.readouterr().out
    assert main(["doctor", str(tmp_path / "nothing.json")]) == 1
    assert main(["doctor", "voc:nothing"]) == 2


def test_many_faults_are_counted_and_a_few_are_shown(tmp_path, capsys):
    annotations = [box(n, 7, 77, [1, 1, 2, 2 + n / 100]) for n in range(1, 31)]
    path = two_images(tmp_path, annotations=annotations)
    main(["doctor", str(path), "--examples", "2"])
    out = capsys.readouterr().out
    assert "unknown category: 30" in out
    assert "... and 28 more" in out


def test_classes_without_objects_are_named_in_one_line(tmp_path, capsys):
    categories = [{"id": n, "name": f"class {n}"} for n in range(40)]
    path = two_images(tmp_path, categories=categories, annotations=[box(1, 7, 5, [1, 1, 2, 2])])
    main(["doctor", str(path), "--examples", "2"])
    out = capsys.readouterr().out
    assert "39 of 40 have no objects here: class 0, class 1 and 37 more" in out
    assert "class 38" not in out


def test_sources_without_json_are_examined_as_well(capsys):
    assert main(["doctor", "synthetic:shapes?count=4&size=40"]) == 0
    assert "4 images" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["bccd/instances_val.json", "coco_ccby/instances_mini.json"])
def test_real_data_sets_are_sound(name):
    assert examine(str(shared(name)), progress=False).ok


def test_names_and_sizes_of_other_kinds_are_findings_and_no_crash(tmp_path):
    images = [
        {"id": 7, "file_name": "wide.png", "height": 6.0, "width": "8"},  # read as they mean
        {"id": 3, "file_name": "high.png", "height": 8.5, "width": 6},
    ]
    categories = [{"id": 5, "name": ["cat"]}, {"id": 2}]
    path = two_images(tmp_path, images=images, categories=categories)
    assert kinds(path) == {"bad image size": True, "category without a name": False}
    images[1]["height"] = 8
    path = two_images(tmp_path, images=images, categories=categories)
    assert examine(str(path), progress=False).ok
    assert len(open_dataset(path)) == 2


def test_a_seed_that_no_generator_takes_is_a_finding(capsys):
    assert main(["doctor", "synthetic:shapes?seed=-1"]) == 1
    assert "wrong is seed" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(UserError, match="wrong is seed"):
        open_dataset("synthetic:shapes?seed=-1")

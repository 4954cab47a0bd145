import json
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxseg.data import open_dataset
from jaxseg.data.classes import HOLE
from jaxseg.data.doctor import examine
from jaxseg.data.loader import Loader
from jaxseg.data.mixture import Mixture
from jaxseg.data.odvg_write import detection_line, grounding_line, write_odvg
from jaxseg.data.transforms import RandomFlip
from jaxseg.errors import UserError
from tests.data.files import picture, shared
from tests.data.words import prompter, prompts

CAPTION = "A cat and a dog near the cat"


def image(folder: Path, name="wide.png", height=6, width=8) -> dict:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(height, width, 1)).save(folder / name)
    return {"filename": name, "height": height, "width": width}


def instance(bbox, label=0, category="cat") -> dict:
    return {"bbox": bbox, "label": label, "category": category}


def detection(folder, *instances, name="wide.png") -> dict:
    return image(folder, name) | {"detection": {"instances": list(instances)}}


def region(bbox, phrase, *spans) -> dict:
    return {"bbox": bbox, "phrase": phrase} | ({"tokens_positive": list(spans)} if spans else {})


def grounding(folder, *regions, caption=CAPTION, name="high.png") -> dict:
    content = {"caption": caption, "regions": list(regions)}
    return image(folder, name, 8, 6) | {"grounding": content}


def write(folder: Path, *lines) -> Path:
    path = folder / "all.jsonl"
    text = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(text) + "\n", encoding="utf-8")
    return path


def test_detection_lines_are_images_with_the_files_own_classes(tmp_path):
    path = write(
        tmp_path,
        detection(tmp_path, instance([1, 2, 4, 4], 5), instance([0, 0, 8, 6], 2, "dog")),
        detection(tmp_path, name="empty.png"),
    )
    dataset = open_dataset(f"odvg:{path}")
    assert len(dataset) == 2
    assert dataset.classes.names == ("dog", "cat")
    assert dataset.classes.category_ids == (2, 5)
    assert dataset.image_ids == ["wide.png", "empty.png"]
    np.testing.assert_array_equal(dataset.sizes, [[6, 8], [6, 8]])
    example = dataset[0]
    np.testing.assert_array_equal(example.boxes, [[1, 2, 4, 4], [0, 0, 8, 6]])
    assert example.labels.tolist() == [1, 0]
    assert example.area.tolist() == [6, 48]
    assert example.names is None
    assert len(dataset[1].labels) == 0


def test_a_label_map_names_the_classes_also_those_that_do_not_occur(tmp_path):
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({"0": "person", "1": "cat", "3": "tree"}))
    path = write(tmp_path, detection(tmp_path, {"bbox": [1, 2, 4, 4], "label": 1}))
    dataset = open_dataset(f"{path}?label_map={labels}")
    assert dataset.classes.names == ("person", "cat", "tree")
    assert dataset[0].labels.tolist() == [1]
    raw = open_dataset(f"odvg:{path}?label_map={labels}", numbering="raw")
    assert raw.classes.names == ("person", "cat", HOLE, "tree")


def test_phrases_are_the_names_of_their_image_and_of_no_other(tmp_path):
    path = write(
        tmp_path,
        grounding(
            tmp_path,
            region([0, 0, 3, 3], "A cat", [0, 5]),
            region([1, 1, 5, 5], "a dog", [10, 15]),
            region([[0, 4, 3, 8], [3, 3, 6, 6]], "the cat", [21, 28]),
        ),
        grounding(tmp_path, region([0, 0, 3, 3], "a bus"), caption="a bus", name="b.png"),
    )
    dataset = open_dataset(str(path))
    first, second = dataset[0], dataset[1]
    assert first.names == ("A cat", "a dog", "the cat")
    assert first.labels.tolist() == [0, 1, 2, 2]
    assert first.spans == (((0, 5),), ((10, 15),), ((21, 28),))
    assert first.caption == CAPTION
    assert not first.exhaustive
    assert (second.names, second.spans) == (("a bus",), None)
    assert dataset.names_by_image
    assert [c["name"] for c in dataset.coco()["categories"]] == [
        "A cat",
        "a dog",
        "the cat",
        "a bus",
    ]


def test_phrases_of_equal_words_at_other_places_are_told_apart(tmp_path):
    regions = [region([0, 0, 3, 3], "a man", [0, 5]), region([1, 1, 5, 5], "a man", [10, 15])]
    path = write(tmp_path, grounding(tmp_path, *regions, caption="a man and a man"))
    example = open_dataset(path)[0]
    assert example.names == ("a man", "a man")
    assert example.labels.tolist() == [0, 1]


def test_a_file_may_hold_both_kinds_and_phrases_are_no_classes(tmp_path):
    path = write(
        tmp_path,
        detection(tmp_path, instance([1, 2, 4, 4])),
        grounding(tmp_path, region([0, 0, 3, 3], "a dog")),
    )
    dataset = open_dataset(path)
    assert dataset.classes.names == ("cat",)
    assert dataset[0].names is None
    assert dataset[0].exhaustive
    assert dataset[1].names == ("a dog",)
    assert open_dataset(path, numbering="raw").classes.names == ("cat",)
    prompt = prompter().draw(dataset[0], dataset.classes.names, np.random.default_rng(0))
    assert prompt.caption == "cat ."


def test_an_image_without_objects_is_asked_for_no_other_images_phrases(tmp_path):
    path = write(tmp_path, detection(tmp_path), grounding(tmp_path, region([0, 0, 3, 3], "a dog")))
    dataset = open_dataset(path)
    assert dataset.classes.names == ()
    prompt = prompter().draw(dataset[0], dataset.classes.names, np.random.default_rng(0))
    assert prompt.caption == "."


def test_boxes_are_clipped_and_those_without_an_area_are_dropped(tmp_path):
    path = write(
        tmp_path,
        detection(
            tmp_path,
            instance([-2, -1, 4, 4]),
            instance([3, 3, 3, 5]),
            instance([8, 0, 12, 4]),
            instance([5, 1, 30, 30]),
        ),
    )
    boxes = open_dataset(path)[0].boxes
    np.testing.assert_array_equal(boxes, [[0, 0, 4, 4], [5, 1, 8, 6]])


def test_the_ground_truth_has_the_boxes_and_classes_of_the_examples(tmp_path):
    path = write(
        tmp_path,
        detection(tmp_path, name="empty.png"),
        detection(tmp_path, instance([-2, -1, 4, 4], 5), instance([3, 3, 3, 5], 2, "dog")),
        grounding(tmp_path, region([1, 2, 3, 8], "a dog")),
    )
    truth = open_dataset(path).coco()
    assert truth["images"][2] == {
        "id": "high.png", "file_name": "high.png", "height": 8, "width": 6
    }  # fmt: skip
    said = [(a["image_id"], a["category_id"], a["bbox"]) for a in truth["annotations"]]
    assert said == [("wide.png", 5, [0, 0, 4, 4]), ("high.png", 6, [1, 2, 2, 6])]
    categories = [{"id": 2, "name": "dog"}, {"id": 5, "name": "cat"}, {"id": 6, "name": "a dog"}]
    assert truth["categories"] == categories


def test_worker_processes_get_no_ground_truth(tmp_path):
    path = write(tmp_path, detection(tmp_path, instance([1, 2, 4, 4])))
    dataset = open_dataset(path)
    sent = pickle.dumps(dataset)
    assert b"bbox" not in sent
    assert pickle.loads(sent).coco() == dataset.coco()


def bad(line: dict, **changes) -> dict:
    return {**line, **changes}


@pytest.mark.parametrize(
    ("instances", "message"),
    [
        (
            [instance([1, 2, 3])],
            r"bbox must be \[x1, y1, x2, y2\], .* got \[1, 2, 3\]",
        ),
        ([instance([1, 2, float("nan"), 4])], r"finite numbers; got \[1, 2, nan, 4\]"),
        ([instance([5, 2, 3, 4])], r"x1 ≤ x2 and y1 ≤ y2; got \[5, 2, 3, 4\]"),
        ([instance([1, 2, 3, 4], "0")], "label must be a whole number from 0 on; got '0'"),
        ([instance([1, 2, 3, 4], category=None)], "category must be text, where there is no label"),
        (
            [instance([1, 2, 3, 4]), instance([1, 2, 3, 4], category="dog")],
            None,
        ),
        ("cat", "instances must be a list of objects; got 'cat'"),
    ],
)
def test_what_is_wrong_with_an_object_is_said_with_file_and_line(tmp_path, instances, message):
    good = detection(tmp_path, instance([1, 2, 4, 4]))
    path = write(tmp_path, good, "", bad(good, detection={"instances": instances}))
    message = message or "label 0 is 'cat' before this line; got 'dog'"
    with pytest.raises(UserError, match=rf"all\.jsonl, line 3: .*{message}"):
        open_dataset(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"filename": ', r"it is not valid JSON \(column 1\d:"),
        ("[1, 2]", r"it must be an object \{...\}; got \[1, 2\]"),
        ({"height": 3, "width": 3, "detection": {}}, "filename must be text; got None"),
        (
            {"filename": "a", "height": 0, "width": 3, "detection": {}},
            r"height and width must be whole numbers above 0; got \[0, 3\]",
        ),
        (
            {"filename": "a", "height": 3, "width": 3},
            r'it must have "detection" or "grounding"; got \[',
        ),
        (
            {"filename": "a", "height": 3, "width": 3, "grounding": {"caption": 3, "regions": []}},
            "caption must be text; got 3",
        ),
    ],
)
def test_what_is_wrong_with_a_line_is_said(tmp_path, line, message):
    path = write(tmp_path, line)
    with pytest.raises(UserError, match=f"line 1: {message}"):
        open_dataset(path)


@pytest.mark.parametrize("spans", [[[0, 99]], [[3, 3]], [[-1, 2]], [0, 5], "all", [["a", 2]]])
def test_places_outside_the_caption_are_refused(tmp_path, spans):
    wrong = {"bbox": [0, 0, 3, 3], "phrase": "a cat", "tokens_positive": spans}
    path = write(tmp_path, grounding(tmp_path, wrong))
    with pytest.raises(UserError, match=r"pairs \[begin, end\] within the caption's 28"):
        open_dataset(path)


def test_bad_lines_are_counted_and_left_out_on_request(tmp_path):
    good = detection(tmp_path, instance([1, 2, 4, 4]))
    worse = bad(good, detection={"instances": [instance([1])]})
    path = write(tmp_path, worse, good, "{", good)
    with pytest.raises(UserError, match=r"line 1: bbox .* \(and 1 more such lines\); mend them"):
        open_dataset(path)
    with pytest.warns(UserWarning, match=r"2 of 4 lines are left out: .*line 1: bbox"):
        dataset = open_dataset(f"{path}?skip=true")
    assert len(dataset) == 2
    assert dataset.image_ids == ["wide.png", "wide.png:4"]
    nothing = write(tmp_path, "{")
    with pytest.raises(UserError, match=r"no line that can be used: .*line 1: it is not valid"):
        open_dataset(nothing, skip=True)


def test_the_doctor_names_every_bad_line_and_examines_the_others(tmp_path):
    good = detection(tmp_path, instance([1, 2, 4, 4]), name="a.png")
    path = write(tmp_path, good, "{", bad(good, height=None))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = examine(f"odvg:{path}", progress=False)
    details = [finding.detail for finding in report.findings if finding.broken]
    assert [detail.split(":")[0] for detail in details] == ["line 2", "line 3"]
    assert (report.images, report.objects, report.ok) == (1, 1, False)
    assert examine(str(write(tmp_path, good)), progress=False).ok


def test_files_that_are_missing_are_named(tmp_path):
    with pytest.raises(UserError, match=r"ODVG file .*none\.jsonl does not exist"):
        open_dataset(tmp_path / "none.jsonl")
    line = detection(tmp_path / "pictures", instance([1, 2, 4, 4]))
    path = write(tmp_path, line)
    with pytest.raises(UserError, match=r"say where they are with images=DIR .* odvg:"):
        open_dataset(path)
    assert len(open_dataset(path, images=str(tmp_path / "pictures"))) == 1
    with pytest.raises(UserError, match=r"the image .*gone\.png, named in"):
        open_dataset(write(tmp_path, detection(tmp_path), bad(line, filename="gone.png")))
    with pytest.raises(UserError, match="has no masks"):
        open_dataset(path, masks=True)
    labels = tmp_path / "labels.json"
    labels.write_text('["cat"]')
    with pytest.raises(UserError, match="must give each label a name"):
        open_dataset(path, label_map=str(labels))


def test_what_is_written_is_read_again(tmp_path):
    image(tmp_path)
    image(tmp_path, "high.png", 8, 6)
    boxes = np.asarray([[1, 2, 4.256, 4], [-5, 0, 30, 3], [8, 1, 9, 2]])
    lines = [
        detection_line("wide.png", (6, 8), boxes, [0, 1, 1], ["cat", "dog", "dog"]),
        grounding_line(
            "high.png", (8, 6), CAPTION, boxes[:2], ["a cat", "a dog"], [[(0, 5)], [(10, 15)]]
        ),
    ]
    path = tmp_path / "found.jsonl"
    assert write_odvg(path, lines) == 2
    assert not list(tmp_path.glob("*.partial"))
    dataset = open_dataset(path)
    np.testing.assert_allclose(dataset[0].boxes, [[1, 2, 4.26, 4], [0, 0, 8, 3]], rtol=1e-6)
    assert [dataset.classes.names[k] for k in dataset[0].labels] == ["cat", "dog"]
    assert dataset[1].names == ("a cat", "a dog")
    assert dataset[1].spans == (((0, 5),), ((10, 15),))


@pytest.mark.parametrize("grounded", ["phrases", "sentence"])
def test_both_kinds_are_trained_on_together(tmp_path, grounded):
    boxes = write(tmp_path / "a", detection(tmp_path / "a", instance([1, 2, 4, 4])))
    said = write(
        tmp_path / "b",
        grounding(
            tmp_path / "b",
            region([0, 0, 3, 3], "A cat", [0, 5]),
            region([1, 1, 5, 5], "a dog", [10, 15]),
        ),
    )
    dataset = Mixture([(open_dataset(boxes), 1), (open_dataset(said), 1)])
    loader = Loader(
        dataset,
        batch_size=2,
        buckets=((8, 8),),
        transform=RandomFlip(),
        max_targets=3,
        seed=0,
        prompts=prompts(grounding=grounded),
    )
    batch, tokenizer = loader.batch(0), prompter().tokenizer
    told = {}
    for row, index in enumerate(batch.index.tolist()):
        tokens = batch.targets.tokens[row][batch.targets.mask[row]]
        told[index] = [tokenizer.decode(batch.captions.ids[row][own]) for own in tokens]
    assert told == {0: ["cat"], 1: ["a cat", "a dog"]}


def test_a_real_data_set_goes_through_odvg_and_back(tmp_path):
    path = shared("bccd/instances_train.json")
    dataset = open_dataset(path)
    lines = []
    for index in range(4):
        example = dataset[index]
        names = [dataset.classes.names[label] for label in example.labels]
        lines.append(
            detection_line(example.file_name, example.size, example.boxes, example.labels, names)
        )
    write_odvg(tmp_path / "bccd.jsonl", lines)
    again = open_dataset(tmp_path / "bccd.jsonl", images=str(dataset.folder))
    for index in range(4):
        np.testing.assert_allclose(again[index].boxes, dataset[index].boxes, atol=0.01)
        own = [again.classes.names[label] for label in again[index].labels]
        assert own == [dataset.classes.names[label] for label in dataset[index].labels]

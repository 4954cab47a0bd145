"""`jaxseg predict --text` and `jaxseg label`: what they write, resume and refuse."""

import copy
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image
from pycocotools.coco import COCO

from jaxseg import checkpoints
from jaxseg.cli import main
from jaxseg.data import open_dataset
from jaxseg.data.doctor import examine
from jaxseg.data.segmentation import decode_segmentation
from jaxseg.predict import GroundedDetector, words
from jaxseg.predict.preprocess import load_image
from jaxseg.predict.result import Prediction, warn_not_finite
from jaxseg.predict.stored import TURNS, as_stored
from tests.predict.small_sam import save_small
from tests.predict.small_words import save_words
from tests.predict.tiny import save_tiny

NAMES = ["hot dog", "a cat", "zebra"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return save_words(tmp_path_factory.mktemp("weights") / "words")


@pytest.fixture(scope="module")
def sam(tmp_path_factory) -> Path:
    return save_small(tmp_path_factory.mktemp("weights") / "sam")


@pytest.fixture(scope="module", autouse=True)
def read_and_compile_once():
    """Keep what commands open: a program is compiled once for all of them."""
    whole, models = words.open_words, {}

    def open_words(args, weights):
        finder = whole(args, weights)
        own = getattr(finder, "detector", finder)
        key = (args.weights, args.vocab, args.batch_size, args.nms_iou)
        detector = models.setdefault(key[:3], own)
        if detector.nms_iou != own.nms_iou:
            detector = models.setdefault(key, copy.copy(detector))
            detector.nms_iou = own.nms_iou
        if own is finder:
            return detector
        finder.detector = detector
        finder.predictor = models.setdefault(args.sam, finder.predictor)
        return finder

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(words, "open_words", open_words)
        patched.setattr(checkpoints, "from_pretrained", cache(checkpoints.from_pretrained))
        yield


@pytest.fixture
def images(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    folder = tmp_path / "images"
    folder.mkdir()
    for name, size in (("7.png", (40, 60)), ("b.jpg", (50, 75))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(folder / name)
    return folder


def predict(weights, images, out, *options) -> int:
    return main(["predict", str(images), "--weights", str(weights), "--out", str(out), *options])


def label(weights, images, out, *options) -> int:
    text = [] if "--text" in options else ["--text", *NAMES]
    command = ["label", str(images), "--weights", str(weights), "--out", str(out)]
    return main([*command, *text, *options])


def listing(out: Path) -> list[dict]:
    return json.loads((out / "predictions.json").read_text())


def test_words_become_pictures_and_json(weights, images, tmp_path, capsys):
    out, coco = tmp_path / "out", tmp_path / "coco.json"
    assert predict(weights, images, out, "--text", *NAMES, "--coco", str(coco)) == 0
    records = listing(out)
    assert [record["picture"] for record in records] == ["7.png", "b.jpg"]
    found = [one for record in records for one in record["objects"]]
    assert {one["name"] for one in found} <= set(NAMES)
    assert all(one["score"] > 0.35 and isinstance(one["text"], str) for one in found)
    assert [one["name"] for one in found] == [NAMES[one["label"]] for one in found]
    results = json.loads(coco.read_text())
    assert [r["category_id"] for r in results] == [one["label"] + 1 for one in found]
    assert {r["image_id"] for r in results} == {7, "b.jpg"}
    for name, size in (("7.png", (60, 40)), ("b.jpg", (75, 50))):
        with Image.open(out / name) as picture:
            assert picture.size == size
    assert f"2 images, {len(found)} objects" in capsys.readouterr().out


def test_a_caption_and_its_phrases_as_names_are_one(weights, images, tmp_path):
    assert predict(weights, images, tmp_path / "a", "--text", *NAMES) == 0
    assert predict(weights, images, tmp_path / "b", "--text", "hot dog. a cat. zebra.") == 0
    assert predict(weights, images, tmp_path / "c", "--text", "Hot Dog.", "a cat.", "zebra.") == 0
    a, b, c = (listing(tmp_path / name) for name in "abc")
    assert a == b
    assert [[one["box"] for one in record["objects"]] for record in c] == [
        [one["box"] for one in record["objects"]] for record in a
    ]


def test_thresholds_are_those_of_the_detector(weights, images, tmp_path):
    text = ["--text", *NAMES]
    for name, options in {
        "box": ["--box-threshold", "0.6"],
        "same": ["--threshold", "0.6"],
        "words": ["--text-threshold", "0.9"],
    }.items():
        assert predict(weights, images, tmp_path / name, *text, *options) == 0
    box, same, few = (listing(tmp_path / name) for name in ("box", "same", "words"))
    assert box == same
    assert all(one["score"] > 0.6 for record in box for one in record["objects"])
    short = [one["text"] for record in few for one in record["objects"]]
    assert len(short) > sum(len(record["objects"]) for record in box)
    assert sum(not text for text in short) > len(short) / 2


def test_masks_of_words_are_drawn_by_segment_anything(weights, sam, images, tmp_path):
    options = ["--text", *NAMES, "--masks", "--sam", str(sam)]
    assert predict(weights, images, tmp_path / "all", *options) == 0
    assert predict(weights, images, tmp_path / "boxes", "--text", *NAMES) == 0
    records = listing(tmp_path / "all")
    for record, plain in zip(records, listing(tmp_path / "boxes"), strict=True):
        masks = [one.pop("segmentation") for one in record["objects"]]
        assert record == plain
        assert masks
        for mask in masks:
            assert decode_segmentation(mask, record["height"], record["width"]).shape
    assert predict(weights, images, tmp_path / "few", *options, "--nms-iou", "0.01") == 0
    few = sum(len(record["objects"]) for record in listing(tmp_path / "few"))
    assert 0 < few < sum(len(record["objects"]) for record in records)


def test_overlapping_boxes_are_left_out_without_masks_too(weights, images, tmp_path):
    for name, own in (("all", []), ("few", ["--nms-iou", "0.01"])):
        assert predict(weights, images, tmp_path / name, "--text", *NAMES, *own) == 0
        assert label(weights, images, tmp_path / f"{name}.json", *own) == 0
    counts = [
        len(json.loads((tmp_path / f"{x}.json").read_text())["annotations"]) for x in ("all", "few")
    ]
    assert counts == [
        sum(len(one["objects"]) for one in listing(tmp_path / x)) for x in ("all", "few")
    ]
    assert 0 < counts[1] < counts[0]


TEXT = ["--text", "cat"]


@pytest.mark.parametrize(
    ("which", "options", "message"),
    [
        ("words", [], "must be told what to look for: --text 'cat. dog.', for example"),
        ("words", ["--points", "5,5"], "must be told what to look for"),
        ("words", ["--panoptic", "{tmp}/s.json"], "must be told what to look for"),
        ("detr", TEXT, "are a Detr's, which finds its own classes: leave --text out"),
        ("sam", TEXT, "which reads no words: name them with --sam"),
        ("words", ["--masks"], "--masks without a file draws what --text says: add --text and"),
        ("sam", ["--masks"], "--masks without a file draws what --text says: add --text and"),
        ("words", ["--sam", "{sam}"], "--sam goes with --text, what to look for"),
        ("detr", ["--box-threshold", "0.1"], "--box-threshold goes with --text"),
        ("detr", ["--text-threshold", "0"], "--text-threshold goes with --text"),
        ("detr", ["--vocab", "v.txt"], "--vocab goes with --text"),
        ("detr", ["--nms-iou", "0.5"], "--nms-iou goes with --text"),
        ("words", [*TEXT, "--masks"], "--masks needs what draws them: --sam"),
        ("words", [*TEXT, "--masks", "m.npy", "--sam", "{sam}"], "--masks takes no file (got m.n"),
        ("words", [*TEXT, "--points", "5,5"], "--points prompts Segment Anything and --text"),
        ("words", [*TEXT, "--boxes", "1,1,2,2"], "--boxes prompts Segment Anything and --text"),
        ("words", [*TEXT, "--panoptic", "{tmp}/s.json"], "divides no scene: leave --panoptic"),
        ("words", [*TEXT, "--nms-iou", "5"], "--nms-iou must lie in [0, 1]"),
        ("words", [*TEXT, "--box-threshold", "5"], "--box-threshold must lie in [0, 1]; got 5"),
        ("words", [*TEXT, "--text-threshold", "5"], "--text-threshold must lie in [0, 1]; got 5"),
        ("words", [*TEXT, "--threshold", "5"], "--threshold must lie in [0, 1]; got 5"),
        ("words", [*TEXT, "--threshold", "0", "--box-threshold", "0"], "give one of them"),
        ("words", [*TEXT, "--sam", "{detr}"], "--sam needs weights of Segment Anything"),
        ("words", [*TEXT, "--sam", "{tmp}/none"], "/none does not exist"),
        ("words", [*TEXT, "--vocab", "{tmp}/v.txt"], "there is no vocabulary"),
        ("words", [*TEXT, "--vocab", "{sam}"], "holds neither tokenizer.json nor vocab.txt"),
        ("words", ["--text", ""], "the caption must name something, as 'cat. dog.'; got ''"),
        ("words", ["--text", "cat", ""], "name 1 to look for must be a word or more; got ''"),
    ],
)
def test_mistakes_are_one_paragraph_before_any_work(
    which, options, message, weights, sam, images, tmp_path, capsys
):
    detr = tmp_path / "detr"
    if which == "detr" or "{detr}" in options:
        save_tiny(detr)
    options = [word.format(tmp=tmp_path, sam=sam, detr=detr) for word in options]
    chosen = {"words": weights, "sam": sam, "detr": detr}[which]
    assert predict(chosen, images, tmp_path / "out", *options) == 2
    said = capsys.readouterr()
    assert message in " ".join(said.err.split())
    assert said.out == ""
    assert not (tmp_path / "out").exists()


def test_weights_that_are_not_finite_are_one_paragraph(
    weights, sam, images, tmp_path, monkeypatch, capsys
):
    def detect(*_):
        warn_not_finite(np.zeros(12, bool))

    monkeypatch.setattr(GroundedDetector, "detect", detect)
    for command, out in ((predict, tmp_path / "out"), (label, tmp_path / "labels.json")):
        for options, named in (([], weights), (["--sam", str(sam)], f"{weights} or {sam}")):
            assert command(weights, images, out, "--text", *NAMES, *options) == 2
            said = " ".join(capsys.readouterr().err.split())
            assert said.startswith(f"jaxseg: {named}: 12 of 12 detections are not finite")
            assert not out.exists()


def test_labels_are_a_coco_data_set(weights, images, tmp_path, capsys):
    out = tmp_path / "labels.json"
    assert label(weights, images, out, "--box-threshold", "0.55") == 0
    assert predict(weights, images, tmp_path / "p", "--text", *NAMES, "--threshold", "0.55") == 0
    expected = listing(tmp_path / "p")
    dataset = open_dataset(out)
    assert dataset.classes.names == tuple(NAMES)
    assert dataset.classes.category_ids == (1, 2, 3)
    assert len(dataset) == 2
    for i, record in enumerate(expected):
        example = dataset[i]
        boxes = np.clip(
            [one["box"] for one in record["objects"]], 0, np.tile(example.size[::-1], 2)
        )
        assert len(example.boxes)
        np.testing.assert_allclose(example.boxes, boxes, atol=0.02)
        assert [NAMES[x] for x in example.labels] == [one["name"] for one in record["objects"]]
    assert not examine(str(out), progress=False).findings
    coco = COCO(out)
    assert {image["file_name"] for image in coco.loadImgs(coco.getImgIds())} == {
        "images/7.png", "images/b.jpg",
    }  # fmt: skip
    count = sum(len(record["objects"]) for record in expected)
    assert len(coco.getAnnIds()) == count
    first = coco.loadAnns(coco.getAnnIds())[0]
    assert first["score"] == expected[0]["objects"][0]["score"]
    assert first["area"] == pytest.approx(first["bbox"][2] * first["bbox"][3], abs=0.01)
    said = capsys.readouterr().out
    assert f"2 images, {count} objects: " in said
    assert "0 without any" in said
    assert f"the labels are in {out}, in COCO's form" in said


# Of pycocotools under NumPy 2.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_labels_with_masks_have_run_lengths_and_their_area(weights, sam, images, tmp_path):
    out = images / "labels.json"
    assert label(weights, images, out, "--sam", str(sam), "--nms-iou", "0.5") == 0
    dataset = open_dataset(out, masks=True)
    assert [example.file_name for example in (dataset[0], dataset[1])] == ["7.png", "b.jpg"]
    example = dataset[0]
    assert len(example.masks)
    np.testing.assert_array_equal(example.area, example.masks.sum((1, 2)))
    coco = COCO(out)
    annotation = coco.loadAnns(coco.getAnnIds())[0]
    np.testing.assert_array_equal(coco.annToMask(annotation), example.masks[0])
    assert not [one for one in examine(str(out), progress=False).findings if one.broken]


def test_labels_are_odvg_lines_with_a_label_map(weights, images, tmp_path, capsys):
    assert label(weights, images, tmp_path / "l.json") == 0
    out = tmp_path / "labels.jsonl"
    assert label(weights, images, out) == 0
    names = tmp_path / "labels_label_map.json"
    assert json.loads(names.read_text()) == {"0": NAMES[0], "1": NAMES[1], "2": NAMES[2]}
    assert f"their names in {names}" in " ".join(capsys.readouterr().out.split())
    lines, same = open_dataset(out, label_map=str(names)), open_dataset(tmp_path / "l.json")
    assert lines.classes.names == same.classes.names
    for one, two in zip((lines[0], lines[1]), (same[0], same[1]), strict=True):
        np.testing.assert_allclose(one.boxes, two.boxes, atol=1e-3)
        np.testing.assert_array_equal(one.labels, two.labels)


@pytest.mark.parametrize("name", ["labels.json", "labels.jsonl"])
def test_an_image_without_any_object_is_kept(name, weights, images, tmp_path, capsys):
    out = tmp_path / name
    assert label(weights, images, out, "--box-threshold", "1") == 0
    assert "2 images, 0 objects: none; 2 without any" in capsys.readouterr().out
    options = {"label_map": str(tmp_path / "labels_label_map.json")} if name[-1] == "l" else {}
    dataset = open_dataset(out, **options)
    assert [len(dataset[i].boxes) for i in range(2)] == [0, 0]
    assert dataset.classes.names == tuple(NAMES)


def test_the_form_may_be_said(weights, images, tmp_path):
    assert label(weights, images, tmp_path / "labels.txt", "--form", "odvg") == 0
    assert (tmp_path / "labels_label_map.json").exists()
    assert len(open_dataset(f"odvg:{tmp_path / 'labels.txt'}")) == 2


def test_an_image_that_cannot_be_read_is_named_and_left_out(weights, images, tmp_path, capsys):
    (images / "broken.png").write_bytes(b"no picture")
    out = tmp_path / "labels.json"
    assert label(weights, images, out) == 1
    said = capsys.readouterr()
    assert str(images / "broken.png") in said.err
    assert f"1 skipped: {images / 'broken.png'}" in said.out
    assert len(open_dataset(out)) == 2
    assert label(weights, images / "broken.png", tmp_path / "none.json") == 1
    assert "no labels are written" in capsys.readouterr().out
    assert not (tmp_path / "none.json").exists()


def test_a_run_that_was_stopped_goes_on(weights, images, tmp_path, monkeypatch, capsys):
    out = tmp_path / "labels.json"
    for number in range(4):
        Image.new("RGB", (60, 40), (60 * number,) * 3).save(images / f"0{number}.png")
    whole, seen = GroundedDetector.prepare, []

    def prepare(self, image):
        seen.append(Path(image).name)
        if len(seen) == 6:
            raise KeyboardInterrupt
        return whole(self, image)

    monkeypatch.setattr(GroundedDetector, "prepare", prepare)
    assert label(weights, images, out) == 130
    assert "keeps what is done: the same command goes on" in " ".join(
        capsys.readouterr().err.split()
    )
    assert not out.exists()
    # As a run that is killed in the middle of a line leaves it.
    with (tmp_path / "labels.json.progress").open("ab") as file:
        file.write(b'{"file": "/x/7.p')
    assert label(weights, images, out) == 0
    assert seen[6:] == ["7.png", "b.jpg"]
    assert "4 of 6 images are labelled already" in capsys.readouterr().err
    first = json.loads(out.read_text())
    assert label(weights, images, tmp_path / "fresh.json") == 0
    assert json.loads((tmp_path / "fresh.json").read_text()) == first

    del seen[:]
    assert label(weights, images, out) == 0
    assert seen == []
    assert json.loads(out.read_text()) == first
    Image.new("RGB", (60, 40)).save(images / "new.png")
    assert label(weights, images, out) == 0
    assert seen == ["new.png"]
    assert len(open_dataset(out)) == 7


def test_other_settings_or_somebody_elses_files_are_never_mixed_or_lost(
    weights, images, tmp_path, capsys
):
    out = tmp_path / "labels.json"
    assert label(weights, images, out) == 0
    before = out.read_bytes()
    for options in (["--text", "cat"], ["--box-threshold", "0.1"]):
        assert label(weights, images, out, *options) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert "was begun with other weights or settings" in said
    assert out.read_bytes() == before
    for name, form in (("mine.json", []), ("m_label_map.json", ["--form", "odvg"])):
        (tmp_path / name).write_text("mine")
        target = tmp_path / ("m.jsonl" if form else name)
        assert label(weights, images, target, *form) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert f"{name} would be overwritten, and no run wrote it" in said
        assert (tmp_path / name).read_text() == "mine"
    (tmp_path / "x.json.progress").write_text("mine\n")
    assert label(weights, images, tmp_path / "x.json") == 2
    assert "was not written by `jaxseg label`" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "{tmp}/labels.xml"], "ends neither in .json (COCO) nor in .jsonl (ODVG)"),
        (["--out", "{tmp}/l.jsonl", "--sam", "{sam}"], "ODVG has no masks: leave --sam out"),
        (["--out", "{images}/b.jpg", "--form", "coco"], "is one of the images"),
        (["--out", "{images}"], "is a folder: name a file"),
        (["--out", "{images}/b.jpg/x.json"], "b.jpg, which is a file"),
        (["--batch-size", "0"], "--batch-size must be 1 or more; got 0"),
        (["--nms-iou", "5"], "--nms-iou must lie in [0, 1]; got 5"),
        (["--box-threshold", "2"], "--box-threshold must lie in [0, 1]; got 2"),
        (["--text", "cat", "dog", "Cat"], "--text names 'cat' 2 times"),
        (["--text", " "], "the caption must name something"),
        (["--weights", "{sam}"], "which reads no words"),
        (["--weights", "{tmp}/none"], "/none does not exist"),
        (["--sam", "{weights}"], "--sam needs weights of Segment Anything"),
    ],
)
def test_mistakes_of_labelling_are_told_before_any_work(
    options, message, weights, sam, images, tmp_path, capsys
):
    places = {"tmp": tmp_path, "sam": sam, "images": images, "weights": weights}
    before = sorted(path.name for path in tmp_path.rglob("*"))
    words = [word.format(**places) for word in options]
    assert label(weights, images, tmp_path / "l.json", *words) == 2
    said = capsys.readouterr()
    assert message in " ".join(said.err.split())
    assert said.out == ""
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_labels_fit_the_pixels_that_a_turned_file_stores(weights, tmp_path, capsys):
    """As our reader and COCO's tools take them; predictions are of the upright picture."""
    pixels = np.random.default_rng(1).integers(0, 256, (60, 40, 3), np.uint8)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(np.rot90(pixels, -1)).save(tmp_path / "upright.png")
    for name in ("turned", "upright"):
        assert label(weights, tmp_path / f"{name}.png", tmp_path / f"{name}.json") == 0
    assert "1 stored turned (EXIF)" in capsys.readouterr().out
    turned, upright = (open_dataset(tmp_path / f"{n}.json")[0] for n in ("turned", "upright"))
    x1, y1, x2, y2 = upright.boxes.T
    np.testing.assert_allclose(turned.boxes, np.stack([y1, 60 - x2, y2, 60 - x1], 1), atol=0.02)


@pytest.mark.parametrize("orientation", TURNS)
def test_boxes_and_masks_turn_back_as_pillow_turns_pictures(orientation, tmp_path):
    stored = np.zeros((5, 7), np.uint8)
    stored[1:3, 2:6] = 255
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    upright = load_image(tmp_path / "a.png")[..., 0] > 0
    rows, columns = np.nonzero(upright)
    box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    one = np.ones(1, np.float32)
    boxes = np.asarray([box], np.float32)
    found = Prediction(boxes, one, one.astype(np.int32), ("a",), upright.shape, upright[None])
    back = as_stored(found, TURNS[orientation])
    assert back.size == (5, 7)
    np.testing.assert_array_equal(back.boxes, [[2, 1, 6, 3]])
    np.testing.assert_array_equal(back.masks[0], stored > 0)

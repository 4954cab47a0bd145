import io
import json
import logging

import numpy as np
import pytest
from PIL import Image

from jaxseg.cli import main
from jaxseg.data import open_dataset
from jaxseg.data.pack import pack
from jaxseg.data.tfds import import_tfds
from jaxseg.errors import UserError
from tests.data.files import box, picture, two_images
from tests.data.panoptic_files import stripes

SQUARE = [[1, 1, 3, 1, 3, 3, 1, 3]]


@pytest.fixture(autouse=True)
def quiet():
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(level)


def assert_same(packed, source):
    assert packed.classes == source.classes
    assert list(packed.image_ids) == list(source.image_ids)
    np.testing.assert_array_equal(packed.sizes, source.sizes)
    for a, b in zip(map(packed.__getitem__, range(len(packed))), source, strict=True):
        assert (a.image_id, a.file_name) == (b.image_id, b.file_name)
        for name in ("image", "boxes", "labels", "area", "iscrowd", "masks"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


def examples(tmp_path):
    annotations = [
        box(1, 7, 5, [1.25, 2, 3, 2.5], segmentation=SQUARE, area=4),
        box(2, 7, 2, [0, 0, 4, 4], iscrowd=1, segmentation={"size": [6, 8], "counts": [8, 40]}),
    ]
    return open_dataset(two_images(tmp_path / "source", annotations=annotations), masks=True)


def test_a_packed_data_set_gives_the_examples_and_ground_truth_of_its_source(tmp_path):
    source = examples(tmp_path)
    pack({"train": source}, tmp_path / "packed")
    packed = open_dataset(f"tfds:{tmp_path}/packed/train", masks=True)
    assert_same(packed, source)
    assert packed.coco() == source.coco()
    assert len(open_dataset(tmp_path / "packed")) == 2


def test_every_source_gives_its_examples_without_their_masks(tmp_path):
    pack({"train": examples(tmp_path)}, tmp_path / "packed")
    names = ["synthetic:shapes?count=2&size=40", f"panoptic:{stripes(tmp_path / 'stripes')}"]
    names += [f"tfds:{tmp_path}/packed/train", str(tmp_path / "source" / "instances.json")]
    for name in names:
        dataset = open_dataset(name, masks=True)
        plain = dataset.without_masks()
        assert dataset[0].masks.any(), name
        assert plain[0].masks is None, name
        np.testing.assert_array_equal(plain[0].boxes, dataset[0].boxes)
        assert plain.coco() == dataset.coco()


def test_the_records_alone_say_the_same(tmp_path):
    source = examples(tmp_path)
    pack({"train": source}, tmp_path / "packed")
    kept = tmp_path / "packed" / "jaxseg-train.json"
    kept.unlink()
    packed = open_dataset(f"tfds:{tmp_path}/packed/train", masks=True)
    assert kept.exists()
    assert packed.classes.names == ("dog", "cat")
    for a, b in zip(map(packed.__getitem__, range(2)), source, strict=True):
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_allclose(a.boxes, b.boxes, atol=1e-3)
        np.testing.assert_array_equal(a.masks, b.masks)
        np.testing.assert_array_equal(a.iscrowd, b.iscrowd)
    assert packed[1].boxes.shape == (0, 4)


def test_the_command_packs_several_splits(tmp_path, capsys):
    path = two_images(tmp_path / "source")
    target = tmp_path / "packed"
    assert main(["data", "pack", f"train={path}", f"val={path}", str(target)]) == 0
    assert "val: 2 images, 2 classes" in capsys.readouterr().out
    assert len(open_dataset(target / "val")) == 2
    assert main(["data", "pack", str(path), str(target)]) == 2
    assert "is not empty" in " ".join(capsys.readouterr().err.split())
    assert main(["data", "pack", str(path), str(path), str(tmp_path / "other")]) == 2
    assert "split of its own" in " ".join(capsys.readouterr().err.split())


def test_a_source_without_files_is_packed_without_loss(tmp_path):
    source = open_dataset("synthetic:shapes?count=3&size=40&masks=1")
    pack({"train": source}, tmp_path / "packed")
    packed = open_dataset(tmp_path / "packed", masks=True)
    for a, b in ((packed[i], source[i]) for i in range(3)):
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.masks, b.masks)


def test_a_damaged_image_leaves_nothing_behind(tmp_path):
    source = examples(tmp_path)
    (tmp_path / "source" / "high.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"high\.png"):
        pack({"train": source}, tmp_path / "packed")
    assert [p.name for p in tmp_path.iterdir()] == ["source"]


def test_splits_of_different_categories_are_refused(tmp_path):
    a = open_dataset(two_images(tmp_path / "a"))
    b = open_dataset(
        two_images(tmp_path / "b", categories=[{"id": 5, "name": "x"}], annotations=[])
    )
    with pytest.raises(UserError, match="different categories"):
        pack({"train": a, "val": b}, tmp_path / "packed")


def lines(folder, *records) -> str:
    path = folder / "all.jsonl"
    Image.fromarray(picture(6, 8)).save(folder / "a.png")
    about = {"filename": "a.png", "height": 6, "width": 8}
    path.write_text("".join(json.dumps(about | record) + "\n" for record in records))
    return str(path)


def test_images_with_names_of_their_own_are_refused(tmp_path):
    region = {"bbox": [1, 1, 4, 4], "phrase": "a cat"}
    path = lines(tmp_path, {"grounding": {"caption": "a cat", "regions": [region]}})
    with pytest.raises(
        UserError, match=r"split val has images with phrases .* keeps classes alone"
    ):
        pack({"val": open_dataset(path)}, tmp_path / "packed")
    assert not (tmp_path / "packed").exists()


def test_odvg_with_classes_is_packed(tmp_path):
    box = {"bbox": [1, 1, 4, 4], "label": 3, "category": "cat"}
    source = open_dataset(lines(tmp_path, {"detection": {"instances": [box]}}))
    pack({"train": source}, tmp_path / "packed")
    packed = open_dataset(tmp_path / "packed")
    assert packed.classes == source.classes
    np.testing.assert_array_equal(packed[0].boxes, source[0].boxes)


def prepare(folder, with_boxes=True):
    """A data set that somebody else prepared, with no more than TFDS's own conventions."""
    tfds = import_tfds()
    features = {"image": tfds.features.Image(shape=(None, None, 3))}
    if with_boxes:
        features["objects"] = tfds.features.Sequence(
            {"bbox": tfds.features.BBoxFeature(), "label": tfds.features.ClassLabel(num_classes=3)}
        )

    class Theirs(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        name = "theirs"
        code_path = None

        def _info(self):
            features_dict = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(builder=self, features=features_dict)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(), "test": self._generate_examples()}

        def _generate_examples(self):
            for n in range(2):
                # Encoded by us: from an array TFDS would need TensorFlow.
                file = io.BytesIO()
                Image.fromarray(picture(6, 8, n)).save(file, "PNG")
                file.seek(0)
                record = {"image": file}
                if with_boxes:
                    corners = tfds.features.BBox(ymin=0.5, xmin=0.25, ymax=1.0, xmax=0.75)
                    record["objects"] = [{"bbox": corners, "label": 2}] if n else []
                yield n, record

    tfds.disable_progress_bar()
    builder = Theirs(data_dir=str(folder), file_format="array_record")
    builder.download_and_prepare()
    return builder.data_path


def test_a_data_set_prepared_by_tfds_opens_by_name_and_split(tmp_path, capsys):
    prepare(tmp_path)
    for spec in ("tfds:theirs", "tfds:theirs/test"):
        dataset = open_dataset(spec, data_dir=str(tmp_path))
        found = sorted((dataset[i].boxes.tolist() for i in range(2)), key=len)
        assert found == [[], [[2, 3, 6, 6]]]
        assert len(dataset.classes) == 3
        assert sorted(dataset.image_ids) == [0, 1]


def test_missing_unprepared_and_unfit_data_sets_say_what_to_do(tmp_path, capsys):
    data_dir = str(tmp_path)
    boxless = prepare(tmp_path / "boxless", with_boxes=False)
    for spec, message in (
        ("tfds:no_such_set_at_all", "no data set 'no_such_set_at_all'"),
        ("tfds:coco/2017", "pip install tensorflow .*array_record.*`tfds:coco/2017.data_dir=DIR`"),
        ("tfds:mnist", "not prepared.*`tfds:mnist.download=True` downloads it"),
        (f"tfds:{boxless}", "no detection data set.*image"),
    ):
        with pytest.raises(UserError, match=message):
            open_dataset(spec, data_dir=data_dir)
    theirs = prepare(tmp_path)
    with pytest.raises(UserError, match="no split 'val'; it has"):
        open_dataset(f"tfds:{theirs}/val")


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (
            ModuleNotFoundError("making it: No module named 'tensorflow.io'"),
            "pip install tensorflow ",
        ),
        (ModuleNotFoundError("not here", name="import_helper"), "pip install import-helper "),
        (ConnectionError("no such host\nat all"), r"ConnectionError: no such host\): look at"),
    ],
)
def test_a_download_that_fails_is_one_paragraph(tmp_path, monkeypatch, capsys, failure, message):
    def fail(builder, **options):
        raise failure

    monkeypatch.setattr(import_tfds().core.DatasetBuilder, "download_and_prepare", fail)
    with pytest.raises(UserError, match=message):
        open_dataset("tfds:mnist?download=True", data_dir=str(tmp_path))
    assert main(["doctor", f"tfds:mnist?download=True&data_dir={tmp_path}"]) == 1
    assert "cannot be opened: 1" in capsys.readouterr().out


def test_what_tfds_uses_without_asking_for_it_is_installed(tmp_path):
    """Its builders look for their files with it before they download anything."""
    builder = import_tfds().builder("voc/2007", data_dir=str(tmp_path))
    assert builder.url_infos


def test_image_files_are_packed_as_they_are(tmp_path):
    source = examples(tmp_path)
    Image.fromarray(picture(6, 8)).save(tmp_path / "source" / "photo.jpg", quality=50)
    (tmp_path / "source" / "photo.jpg").rename(tmp_path / "source" / "wide.png")
    pack({"train": source}, tmp_path / "packed")
    packed = open_dataset(tmp_path / "packed")
    np.testing.assert_array_equal(packed[0].image, source[0].image)
    assert json.loads((tmp_path / "packed" / "jaxseg-train.json").read_text()) == source.coco()

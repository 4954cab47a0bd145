"""Writing a data set as TFDS ArrayRecord files: few large files, fast random access."""

import contextlib
import io
import json
import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from jaxseg.data.dataset import Dataset
from jaxseg.data.tfds import import_tfds
from jaxseg.errors import UserError


def pack(splits: Mapping[str, Dataset], directory: str | Path) -> None:
    """Write data sets as the splits of one TFDS ArrayRecord data set.

    Image files are copied as they are (a source without files is written as PNG), and every image
    is decoded once to be sure of it. The ground truth goes along in COCO's form, so
    `tfds:DIRECTORY/SPLIT` gives the same examples and the same evaluation as the source.

    Args:
      splits: data sets of the same categories, by the name of their split.
      directory: a folder that does not exist yet, or is empty.

    Raises:
      UserError: the folder is in use, the categories differ, panoptic ground truth, phrases, or
        an image that cannot be read; nothing is left behind.
    """
    directory = Path(directory).expanduser()
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UserError(f"{directory} exists and is not empty; choose another place or remove it")
    if any(hasattr(dataset, "panoptic") for dataset in splits.values()):
        raise UserError("panoptic ground truth cannot be packed: train on it as it is")
    if named := [split for split, dataset in splits.items() if dataset.names_by_image]:
        raise UserError(
            f"the split {named[0]} has images with phrases or expressions of their own, and a "
            "packed data set keeps classes alone: train on it as it is"
        )
    truths = {split: dataset.coco() for split, dataset in splits.items()}
    categories = [truth["categories"] for truth in truths.values()]
    named = [{(c["id"], c.get("name")) for c in some} for some in categories]
    if any(some != named[0] for some in named):
        raise UserError("the splits have different categories; pack them apart")
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".packing-") as place:
        written = _write(splits, truths, Path(place), directory.name)
        for split, truth in truths.items():
            (written / f"jaxseg-{split}.json").write_text(json.dumps(truth), encoding="utf-8")
        if directory.exists():
            directory.rmdir()
        shutil.move(written, directory)


def _write(
    splits: Mapping[str, Dataset], truths: Mapping[str, Mapping], place: Path, name: str
) -> Path:
    tfds = import_tfds()
    names = {
        c["id"]: str(c.get("name", c["id"])) for c in next(iter(truths.values()))["categories"]
    }
    number = {id_: n for n, id_ in enumerate(sorted(names))}
    title = "".join(c if c.isalnum() else "_" for c in name.lower()).strip("_") or "packed"

    class Packed(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """A data set written by `jaxseg data pack`."""

        VERSION = tfds.core.Version("1.0.0")
        name = title if title[0].isalpha() else f"set_{title}"
        # Nothing is downloaded, so TFDS need not look for checksums beside this module.
        code_path = None

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self,
                features=_features(tfds, [names[id_] for id_ in sorted(names)]),
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager):
            return {s: self._generate_examples(s) for s in splits}

        def _generate_examples(self, split):
            yield from _records(tfds, splits[split], truths[split], number, split)

    with _quiet():
        builder = Packed(data_dir=str(place), file_format="array_record")
        builder.download_and_prepare()
    return Path(builder.data_path)


def _features(tfds, names: list[str]):
    features = tfds.features
    return features.FeaturesDict(
        {
            "image": features.Image(shape=(None, None, 3)),
            "image/id": features.Text(),
            "image/filename": features.Text(),
            "objects": features.Sequence(
                {
                    "id": np.int64,
                    "bbox": features.BBoxFeature(),
                    "label": features.ClassLabel(names=_distinct(names)),
                    "area": np.float64,
                    "is_crowd": np.bool_,
                    "segmentation": features.Text(),
                }
            ),
        }
    )


def _records(
    tfds, dataset: Dataset, truth: Mapping, number: Mapping[int, int], split: str
) -> Iterator[tuple[int, dict]]:
    owned = {}
    for annotation in truth["annotations"]:
        owned.setdefault(annotation["image_id"], []).append(annotation)
    for n in tqdm(range(len(dataset)), f"packing {split}", disable=None):
        example = dataset[n]
        objects = [_object(tfds, a, example.size, number) for a in owned.get(example.image_id, ())]
        yield (
            n,
            {
                "image": io.BytesIO(_encoded(dataset, n, example.image)),
                "image/id": str(example.image_id),
                "image/filename": example.file_name,
                "objects": objects,
            },
        )


def _object(tfds, annotation: Mapping, size: tuple[int, int], number: Mapping[int, int]) -> dict:
    x, y, w, h = annotation["bbox"]
    height, width = size
    top, bottom = np.clip(np.asarray([y, y + h]) / height, 0, 1).tolist()
    left, right = np.clip(np.asarray([x, x + w]) / width, 0, 1).tolist()
    segmentation = annotation.get("segmentation")
    return {
        "id": annotation["id"] if isinstance(annotation["id"], int) else 0,
        "bbox": tfds.features.BBox(top, left, max(top, bottom), max(left, right)),
        "label": number[annotation["category_id"]],
        "area": float(annotation["area"]),
        "is_crowd": bool(annotation["iscrowd"]),
        "segmentation": json.dumps(segmentation) if segmentation else "",
    }


def _encoded(dataset: Dataset, index: int, image: np.ndarray) -> bytes:
    if hasattr(dataset, "image_path"):
        return dataset.image_path(index).read_bytes()
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def _distinct(names: list[str]) -> list[str]:
    # TFDS refuses a class name twice; ids tell such classes apart.
    return [name if names.count(name) == 1 else f"{name} #{n}" for n, name in enumerate(names)]


@contextlib.contextmanager
def _quiet():
    # TFDS prints on stdout and logs its own progress; ours is enough.
    tfds = import_tfds()
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.enable_progress_bar()
        logger.setLevel(level)

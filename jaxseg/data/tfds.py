"""Data sets of TensorFlow Datasets, read without TensorFlow from ArrayRecord files.

Boxes and ids are gathered in one pass without decoding images and kept as `jaxseg-SPLIT.json`, in
COCO's form, beside the records (a packed data set brings that file along).
"""

import contextlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np

from jaxseg.data.classes import Classes, Numbering
from jaxseg.data.coco_json import ground_truth
from jaxseg.data.coco_table import CocoTable
from jaxseg.data.dataset import Example
from jaxseg.data.images import check_size, read_image
from jaxseg.data.tfds_records import gather_coco, object_feature
from jaxseg.errors import UserError
from jaxseg.program import install_line

PACKAGES = {"cv2": "opencv-python", "PIL": "pillow", "skimage": "scikit-image"}  # by module


def open_tfds(
    location: str,
    *,
    numbering: Numbering = "contiguous",
    data_dir: str | None = None,
    download: bool = False,
    masks: bool = False,
) -> "TfdsDataset":
    """Open NAME or NAME/SPLIT, or the folder of a prepared data set with or without /SPLIT.

    Args:
      location: as above; the split is `train` if none is named.
      numbering: of the labels, as in `Classes.from_categories`.
      data_dir: where prepared data sets are; None is TFDS's own place.
      download: whether a data set that is not there may be downloaded and prepared.
      masks: whether examples carry object masks.

    Raises:
      UserError: not there, not to be prepared with what is installed, or has no boxes.
    """
    tfds = import_tfds()
    builder, split = _find(tfds, location, data_dir, download)
    feature = object_feature(builder.info.features, location)
    skip = {"image": tfds.decode.SkipDecoding()}
    try:
        source = builder.as_data_source(split, decoders=skip)
    except (ImportError, NotImplementedError, ValueError) as error:
        raise UserError(
            f"tfds:{location} cannot be read at random ({_first_line(error)}); prepare it with "
            "file_format='array_record'"
        ) from error
    if not len(source):
        raise UserError(f"the data set tfds:{location} is empty: its split {split} has no examples")
    kept = Path(builder.data_path) / f"jaxseg-{split}.json"
    content = _read_kept(kept, len(source))
    if content is None:
        content = gather_coco(source, feature, builder.info.features, location)
        # Slices like train[:10%] have no name of their own, and the folder may be read-only.
        if split in builder.info.splits:
            with contextlib.suppress(OSError):
                kept.write_text(json.dumps(content), encoding="utf-8")
    table = CocoTable.build(content, f"tfds:{location}", numbering, masks)
    return TfdsDataset(source, table, content)


class TfdsDataset:
    """A split of a prepared TFDS data set; `classes`, `sizes`, `image_ids` as every data set."""

    names_by_image = False

    def __init__(self, source: Sequence[Mapping], table: CocoTable, content: Mapping):
        self._source, self._table, self._content = source, table, content

    @property
    def classes(self) -> Classes:
        return self._table.classes

    @property
    def sizes(self) -> np.ndarray:
        return self._table.sizes

    @property
    def image_ids(self) -> Sequence[int | str]:
        return self._table.image_ids

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> Example:
        name = self._table.file_names[index]
        image = read_image(self._source[index]["image"], name)
        check_size(name, image.shape[:2], self.sizes[index])
        return self._table.example(index, image)

    def __getstate__(self) -> dict:
        # Worker processes read examples; the ground truth stays here.
        return {**self.__dict__, "_content": None}

    def coco(self) -> dict:
        return ground_truth(self._content, self._table)

    def without_masks(self) -> Self:
        return type(self)(self._source, self._table.without_masks(), self._content)


def import_tfds():
    """The tensorflow_datasets package; TensorFlow itself stays out.

    Raises:
      UserError: it is not installed.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            import tensorflow_datasets
    except ImportError:
        raise UserError(
            f"this data set needs tensorflow-datasets: {install_line('train')}"
        ) from None
    return tensorflow_datasets


def _find(tfds, location: str, data_dir: str | None, download: bool):
    """A builder whose data is on disk, and the split."""
    name, slash, split = location.rpartition("/")
    folder = Path(location).expanduser()
    for directory, chosen in ((folder, "train"), (folder.parent, folder.name)):
        if (directory / "dataset_info.json").is_file():
            return _checked(tfds.builder_from_directory(str(directory)), chosen, location)
    if not slash:
        return _checked(_named(tfds, location, data_dir, download), "train", location)
    # coco/2017 names a configuration, voc/train a split: the builder knows.
    try:
        builder = _named(tfds, location, data_dir, download)
    except _UnknownError:
        return _checked(_named(tfds, name, data_dir, download), split, location)
    return _checked(builder, "train", location)


class _UnknownError(UserError):
    """TFDS knows no data set or configuration of this name."""


def _named(tfds, name: str, data_dir: str | None, download: bool):
    lacking = None
    # TFDS prints a banner where TensorFlow is missing.
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            builder = tfds.builder(name, data_dir=data_dir)
        except ModuleNotFoundError as error:
            builder, lacking = None, error
        except (tfds.core.DatasetNotFoundError, ValueError, TypeError) as error:
            builder = _from_files(tfds, name, data_dir)
            if builder is None:
                raise _UnknownError(
                    f"TensorFlow Datasets has no data set {name!r} ({_first_line(error)}); "
                    f"`tfds:{name}?data_dir=DIR` says where prepared ones are"
                ) from None
        if builder is None:
            builder = _from_files(tfds, name, data_dir)
    if builder is None:
        raise _lacking(name, lacking) from None
    if download:
        _prepare(builder, name)
    return builder


def _prepare(builder, name: str) -> None:
    try:
        builder.download_and_prepare(file_format="array_record")
    except ModuleNotFoundError as error:
        raise _lacking(name, error) from None
    except Exception as error:  # the data set's own script and its servers may fail in any way
        raise UserError(
            f"the data set tfds:{name} cannot be downloaded and prepared ({type(error).__name__}: "
            f"{_first_line(error)}): look at the connection and the disk and try again, or prepare "
            f"it elsewhere and say `tfds:{name}?data_dir=DIR`"
        ) from error


def _lacking(name: str, error: ModuleNotFoundError) -> UserError:
    # TFDS raises the error anew, with more words and without the module's name.
    named = re.search(r"No module named '(\w+)", str(error))
    module = named[1] if named else str(error.name).partition(".")[0]
    package = PACKAGES.get(module, module.replace("_", "-"))
    return UserError(
        f"the data set tfds:{name} cannot be prepared without {package}: pip install {package} "
        "(once it is prepared, reading it needs none), or prepare it where that is installed, with "
        f"file_format='array_record', and say `tfds:{name}?data_dir=DIR`; or get it in COCO's form "
        "and name its json file"
    )


def _from_files(tfds, name: str, data_dir: str | None):
    try:
        return tfds.core.read_only_builder.builder_from_files(name, data_dir=data_dir)
    except (tfds.core.DatasetNotFoundError, ValueError, AssertionError, OSError):
        return None


def _checked(builder, split: str, location: str):
    if not (Path(builder.data_path) / "dataset_info.json").is_file():
        raise UserError(
            f"the data set tfds:{location} is not prepared in {builder.data_path}: "
            f"`tfds:{location}?download=True` downloads it (quote the name in a shell), and "
            f"`tfds:{location}?data_dir=DIR` looks for it elsewhere"
        )
    try:
        builder.info.splits[split]
    except (KeyError, ValueError) as error:
        raise UserError(
            f"the data set tfds:{location} has no split {split!r}; it has "
            f"{', '.join(builder.info.splits)} ({_first_line(error)})"
        ) from None
    return builder, split


def _read_kept(path: Path, count: int) -> dict | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if len(content.get("images", ())) == count else None


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]

"""Where a command may write: told before the work, and never over what is not its own."""

import json
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from jaxseg.data.images import DAMAGED
from jaxseg.errors import UserError

LISTING = "predictions.json"
JPEG_LIMIT = 65_500  # pixels of a side


def check_file(option: str, path: Path | None) -> None:
    """Refuse a file that could not be written after the work; None is fine.

    Raises:
      UserError: it is a folder, or lies where no file can be made.
    """
    if path is None:
        return
    if path.is_dir():
        raise UserError(f"{option} {path} is a folder: name a file to write to")
    _check_place(option, path)


def check_folder(option: str, path: Path) -> None:
    """Refuse a folder that could not be made or filled after the work.

    Raises:
      UserError: it is a file, or lies where no folder can be made.
    """
    if os.path.lexists(path) and not path.is_dir():
        raise UserError(f"{option} {path} is a file: name a folder")
    _check_place(option, path / "any")


def check_distinct(files: Mapping[str, Path | None]) -> None:
    """Refuse two options (the keys) that name one file.

    Raises:
      UserError: the later would overwrite the earlier.
    """
    seen: dict[Path, str] = {}
    for option, path in files.items():
        if path is None:
            continue
        first = seen.setdefault(path.resolve(), option)
        if first != option:
            raise UserError(f"{first} and {option} both name {path}: name two files")


def _check_place(option: str, path: Path) -> None:
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise UserError(f"{option} cannot be {path}: {error.strerror}") from error
    folder = next(parent for parent in path.absolute().parents if os.path.lexists(parent))
    if not folder.is_dir():
        raise UserError(
            f"{option} cannot lie below {folder}, which is a file: choose another place"
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{option} cannot lie in {folder}: you may not write there")


def name_outputs(paths: Sequence[Path], folder: Path) -> dict[Path, Path]:
    """Where each picture goes: its own name in `folder`, numbered where names collide."""
    names = distinct_names((path.stem, _suffix(path)) for path in paths)
    return {path: folder / name for path, name in zip(paths, names, strict=True)}


def distinct_names(parts: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Stem and suffix of each file as one name, numbered where two differ at most in case."""
    taken: set[str] = set()
    repeats: Counter[str] = Counter()
    for stem, suffix in parts:
        name = wanted = f"{stem}{suffix}"
        while name.lower() in taken:
            repeats[wanted.lower()] += 1
            name = f"{stem}_{repeats[wanted.lower()] + 1}{suffix}"
        taken.add(name.lower())
        yield name


def _suffix(path: Path) -> str:
    return ".png" if path.suffix.lower() == ".png" or _long_side(path) > JPEG_LIMIT else ".jpg"


def _long_side(path: Path) -> int:
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a size near Pillow's limit: decoding will tell
        try:
            with Image.open(path) as image:
                return max(image.size)
        except DAMAGED:
            return 0


def check_targets(outputs: Mapping[Path, Path], folder: Path, coco: Path | None) -> None:
    """Refuse to overwrite anything but the pictures of an earlier run into `folder`.

    Args:
      outputs: from each image to its picture in `folder`.
      coco: a file that is written as well.

    Raises:
      UserError: a target is an image, somebody else's file, or another target.
    """
    originals = {path.resolve() for path in outputs}
    listed = listed_pictures(folder)
    for output in outputs.values():
        if output.resolve() in originals:
            raise UserError(
                f"the picture {output} would overwrite an image: choose another folder with --out"
            )
        if os.path.lexists(output) and output.name not in listed:
            raise UserError(
                f"the picture {output} would overwrite a file that no earlier run wrote "
                f"({LISTING} in {folder} does not list it): choose another folder with --out, or "
                "move the file away"
            )
    if coco is not None:
        _check_coco(coco.resolve(), originals, folder, outputs.values())


def _check_coco(coco: Path, originals: set[Path], folder: Path, outputs: Iterable[Path]) -> None:
    if coco in originals:
        raise UserError(f"--coco {coco} is one of the images: name another file")
    ours = {output.resolve() for output in outputs} | {(folder / LISTING).resolve()}
    if coco in ours or folder.resolve().is_relative_to(coco):
        raise UserError(f"--coco {coco} is what --out writes already: name another file")


def listed_pictures(folder: Path) -> set[str]:
    """Names of the pictures that an earlier run left in `folder`, as its predictions.json says.

    Raises:
      UserError: the file is there and was not written by a run.
    """
    path = folder / LISTING
    if not os.path.lexists(path):
        return set()
    try:
        records = list.copy(json.loads(path.read_text(encoding="utf-8")))
        pictures = [record["picture"] for record in records if record["file"]]
    except (OSError, ValueError, KeyError, TypeError):
        pictures = [None]
    if not all(isinstance(name, str) for name in pictures):
        raise UserError(
            f"{path} would be overwritten, and no earlier run wrote it: choose another folder "
            "with --out, or move the file away"
        )
    return set(pictures)


def remove_pictures(folder: Path, names: Iterable[str], keep: Iterable[Path]) -> None:
    """Remove pictures of an earlier run, unless they are among the files to `keep`."""
    kept = {path.resolve() for path in keep}
    for name in names:
        path = folder / name
        ours = Path(name).name == name and path.suffix in (".jpg", ".png")
        if ours and path.is_file() and path.resolve() not in kept:
            path.unlink()

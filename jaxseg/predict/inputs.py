"""The images that a command line names."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from jaxseg.errors import UserError

SUFFIXES = (
    ".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff",
    ".webp",
)  # fmt: skip


def find_images(arguments: Sequence[str]) -> list[Path]:
    """The files that arguments name: files as they are, images in folders, matches of patterns.

    Each comes once, however often and in whatever spelling it is named, in the order of the
    arguments and sorted within each of them.

    Raises:
      UserError: an argument is empty or names nothing.
    """
    found: dict[Path, Path] = {}
    for argument in arguments:
        for path in _files(argument):
            found.setdefault(path.resolve(), path)
    return list(found.values())


def _files(argument: str) -> list[Path]:
    if not argument.strip():
        raise UserError(
            f"an image cannot be called {argument!r}: name files, folders or patterns "
            "(the current folder is '.')"
        )
    path = Path(argument)
    # Path's own questions raise for a name that is too long for the file system.
    if os.path.isdir(path):
        files = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
        missing = f"the folder {path} holds no images ({' '.join(SUFFIXES)})"
    elif os.path.exists(path):
        return [path]
    else:
        files = sorted(p for p in map(Path, glob.glob(argument, recursive=True)) if p.is_file())
        missing = f"no image at {argument}: check the path"
    if not files:
        raise UserError(missing)
    return files

"""Fonts that can write the names of classes."""

import functools
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from PIL import ImageFont

logger = logging.getLogger(__name__)

# Of the many fonts of a machine, these look plain and cover much.
PREFERRED = ("NotoSans-", "NotoSansCJK", "DejaVuSans.", "Arial Unicode", "PingFang", "msyh", "Noto")


def font_for(text: str, size: float) -> ImageFont.FreeTypeFont:
    """Pillow's own font where it has all letters of `text`, else one of the machine's that has.

    Where none has, Pillow's is returned and a message says so, once for the same letters.
    """
    own = ImageFont.load_default(size)
    missing = frozenset(_missing(own, text))
    path = _path_for(missing) if missing else None
    return own if path is None else ImageFont.truetype(path, round(size))


@functools.cache
def _path_for(letters: frozenset[str]) -> str | None:
    for path in _installed():
        try:
            font = ImageFont.truetype(path, 16)
        except OSError:
            continue
        if not _missing(font, letters):
            return path
    logger.warning(
        "no font of this machine has the letters %s: boxes stand for them in the pictures. Install "
        "one that has, such as Noto Sans or Noto Sans CJK",
        "".join(sorted(letters)),
    )
    return None


def _missing(font: ImageFont.FreeTypeFont, letters) -> list[str]:
    # FreeType draws the same sign for everything that a font lacks.
    nothing = _shape(font, "\U0010ffff")
    return [c for c in set(letters) if not c.isspace() and _shape(font, c) == nothing]


def _shape(font: ImageFont.FreeTypeFont, letter: str) -> tuple:
    mask = font.getmask(letter)
    return mask.size, bytes(mask)


@functools.cache
def _installed() -> tuple[str, ...]:
    files = [str(path) for folder in _folders() for path in sorted(_fonts(folder))]
    names = [os.path.basename(path) for path in files]
    rank = {
        path: next((i for i, word in enumerate(PREFERRED) if name.startswith(word)), 99)
        for path, name in zip(files, names, strict=True)
    }
    return tuple(sorted(files, key=rank.__getitem__))


def _fonts(folder: Path) -> Iterator[Path]:
    return (p for p in folder.rglob("*") if p.suffix.lower() in (".ttf", ".ttc", ".otf"))


def _folders() -> list[Path]:
    home = Path.home()
    if sys.platform == "win32":
        return [Path(os.environ.get("WINDIR", r"C:\Windows")) / "Fonts"]
    if sys.platform == "darwin":
        return [Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library/Fonts"]
    data = os.environ.get("XDG_DATA_HOME") or home / ".local" / "share"
    return [
        Path("/usr/share/fonts"),
        Path("/usr/local/share/fonts"),
        Path(data) / "fonts",
        home / ".fonts",
    ]

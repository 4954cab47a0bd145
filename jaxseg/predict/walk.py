"""What commands do with many images: read, answer, and name those that cannot be read."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from jaxseg.errors import UserError


class Reader(Protocol):
    """What prepares images for a model; `batch_size` of them are one call of it."""

    batch_size: int

    def prepare(self, image: Path) -> Any: ...


def walk(
    reader: Reader, answer: Callable[[Iterable], Sequence], paths: Sequence[Path]
) -> Iterator[tuple[Path, Any]]:
    """Each path with the answer for it, or with the `UserError` that says why it cannot be read.

    Args:
      answer: of prepared images.
    """
    from tqdm import tqdm

    # Enough images at a time to fill batches of several canvas sizes.
    stride = 4 * reader.batch_size
    with tqdm(total=len(paths), unit="image", disable=None) as bar:
        for start in range(0, len(paths), stride):
            prepared = {}
            for path in paths[start : start + stride]:
                try:
                    prepared[path] = reader.prepare(path)
                except UserError as error:
                    yield path, error
                    bar.update()
            answers = answer(prepared.values())
            for path, found in zip(prepared, answers, strict=True):
                yield path, found
                bar.update()


def say(text: str) -> None:
    """Print a line on stderr, beside a bar of progress."""
    from tqdm import tqdm

    tqdm.write(text, file=sys.stderr)

"""Several pictures on one sheet."""

import math
from collections.abc import Sequence

from PIL import Image

GAP = 8
PAPER = (255, 255, 255)


def sheet(pictures: Sequence[Image.Image], columns: int = 4) -> Image.Image:
    """Pictures row by row, each centred in a cell as large as the largest.

    Args:
      pictures: at least one.
      columns: at most so many side by side.
    """
    if not pictures:
        raise ValueError("a sheet needs at least one picture; got none")
    columns = min(columns, len(pictures))
    width, height = (max(p.size[axis] for p in pictures) for axis in (0, 1))
    rows = math.ceil(len(pictures) / columns)
    size = (columns * (width + GAP) + GAP, rows * (height + GAP) + GAP)
    paper = Image.new("RGB", size, PAPER)
    for i, picture in enumerate(pictures):
        row, column = divmod(i, columns)
        left = GAP + column * (width + GAP) + (width - picture.width) // 2
        top = GAP + row * (height + GAP) + (height - picture.height) // 2
        paper.paste(picture, (left, top))
    return paper

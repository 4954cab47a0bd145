"""Specks and holes of masks (arXiv 2304.02643, section B)."""

from typing import Literal

import numpy as np
from scipy import ndimage

AROUND = np.ones((3, 3), int)  # neighbours touch at corners, too


def remove_small_regions(
    mask: np.ndarray, area: float, mode: Literal["holes", "islands"]
) -> tuple[np.ndarray, bool]:
    """Fill small holes of a bool (h, w) mask, or drop its small islands.

    Everything outside that hangs together is a hole, even at the border. Where all islands are
    small, the largest stays.

    Args:
      area: pixels; smaller regions are small.

    Returns:
      The mask, and whether it changed.
    """
    holes = mode == "holes"
    labels, count = ndimage.label(mask ^ holes, AROUND)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    small = sizes < area
    if not small.any():
        return mask, False
    change = np.concatenate([[False], small])
    if holes:
        return mask | change[labels], True
    if small.all():
        change[1 + sizes.argmax()] = False
    return mask & ~change[labels], True

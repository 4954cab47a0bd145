"""COCO's object masks: polygons, and run lengths compressed or not."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxseg.errors import UserError
from jaxseg.program import install_line


def decode_segmentation(segmentation, height: int, width: int) -> np.ndarray:
    """The bool (h, w) mask of a `segmentation` field.

    Args:
      segmentation: a list of polygons [x, y, x, y, ...] in pixels, whose union is meant, or
        {"size": [h, w], "counts": run lengths down the columns, or COCO's string}; None or
        an empty list is an empty mask.

    Raises:
      ValueError: none of these, or of another size than the image.
    """
    if segmentation is None or (isinstance(segmentation, list) and not segmentation):
        return np.zeros((height, width), bool)
    rle_tools = _rle_tools()
    if isinstance(segmentation, Mapping):
        size = segmentation.get("size")
        if not isinstance(size, list | tuple) or list(size) != [height, width]:
            raise ValueError(f"run lengths of size {size} on an image of {[height, width]}")
        counts = segmentation.get("counts")
        if isinstance(counts, list):
            _check_counts(counts, height * width)
            encoded = rle_tools.frPyObjects(dict(segmentation), height, width)
        elif isinstance(counts, str | bytes) and counts:
            encoded = dict(segmentation)
        else:
            raise ValueError("run lengths without counts")
        try:
            return rle_tools.decode(encoded).astype(bool)
        except RuntimeError as error:
            raise ValueError(str(error)) from error
    polygons = drawable(_polygons(segmentation))
    if not polygons:
        return np.zeros((height, width), bool)
    encoded = rle_tools.merge(rle_tools.frPyObjects(polygons, height, width))
    return rle_tools.decode(encoded).astype(bool)


def drawable(segmentation: Any) -> Any:
    """A valid `segmentation` without its polygons of fewer than three points.

    They cover nothing, and COCO's tools take two points for a box.
    """
    if isinstance(segmentation, Mapping):
        return segmentation
    return [polygon for polygon in segmentation if len(polygon) >= 6]


def encode_mask(mask: np.ndarray) -> dict:
    """A bool (h, w) mask as compressed run lengths, {"size": [h, w], "counts": str}."""
    return {"size": list(mask.shape), "counts": compressed(run_lengths(mask))}


def run_lengths(mask: np.ndarray) -> np.ndarray:
    """Lengths of a bool (h, w) mask's runs down its columns, the first one of pixels outside."""
    flat = np.asarray(mask, bool).ravel(order="F")
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    start = [0, 0] if flat[:1].any() else [0]
    return np.diff(np.concatenate([start, edges, [flat.size]]))


def mask_of_runs(runs: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The bool (h, w) mask of `run_lengths`."""
    height, width = size
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape(width, height).T


def compressed(runs: np.ndarray) -> str:
    """COCO's string: differences to the run before the last, five bits a letter, low ones first."""
    rest = runs.copy()
    rest[3:] -= runs[1:-2]
    letters, written, more = [], [], np.ones(len(rest), bool)
    while more.any():  # once for each letter of the longest run
        bits, rest = rest & 31, rest >> 5
        written.append(more)
        more = more & (rest != np.where(bits & 16, -1, 0))
        letters.append((48 + bits + 32 * more).astype(np.uint8))
    return np.stack(letters, 1)[np.stack(written, 1)].tobytes().decode("ascii")


class Problem(NamedTuple):
    """What is wrong with a mask, and whether it still decodes (to nothing)."""

    text: str
    decodes: bool


def segmentation_problem(segmentation, height: int, width: int) -> Problem | None:
    """What is wrong with a `segmentation` field, or None; does not decode polygons."""
    if segmentation is None:
        return None
    if isinstance(segmentation, Mapping):
        try:
            mask = decode_segmentation(segmentation, height, width)
        except (ValueError, TypeError, KeyError) as error:
            return Problem(str(error), False)
        return None if mask.any() else Problem("its run lengths cover no pixel", True)
    try:
        polygons = _polygons(segmentation)
    except ValueError as error:
        return Problem(str(error), False)
    if not drawable(polygons):
        return Problem("its polygons are empty (fewer than three points)", True)
    return None


def _polygons(segmentation) -> list[list[float]]:
    if not isinstance(segmentation, list) or not all(isinstance(p, list) for p in segmentation):
        raise ValueError("neither a list of polygons nor run lengths")
    for polygon in segmentation:
        if len(polygon) % 2:
            raise ValueError("a polygon with an odd number of coordinates")
        try:
            finite = np.isfinite(np.asarray(polygon, np.float64)).all()
        except (ValueError, TypeError):
            finite = False
        if not finite:
            raise ValueError("a polygon with coordinates that are not finite numbers")
    return segmentation


def _check_counts(counts: list, pixels: int) -> None:
    # pycocotools trusts its input: a wrong total would be read past the end of the image.
    if not all(isinstance(n, int) and n >= 0 for n in counts) or sum(counts) != pixels:
        raise ValueError(f"run lengths must be whole numbers that add up to {pixels}")


def _rle_tools():
    try:
        # pycocotools' own functions, without its warning under NumPy 2 and its faults on bad input.
        from faster_coco_eval import mask
    except ImportError:
        raise UserError(
            f"object masks need faster-coco-eval: {install_line('train')}, or open the data set "
            "without masks"
        ) from None
    return mask

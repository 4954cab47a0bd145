"""From mask logits to masks and segments in a file's own pixels (arXiv 2005.12872, section 4.4).

All of this runs on the host in numpy, image by image: every result has its own size. The logits
of an image cover `covers` pixels (h, w) of its canvas, of which the image has the first `size`;
results are of its file's size, `original`.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from jaxseg.typing import Bool, Float, Int

Size = tuple[int, int]

THRESHOLD = 0.85  # of a query that takes part in a panoptic segmentation
SMALL = 4  # pixels; a segment of no more is dropped
_STRIP = 2**24  # numbers to be resized at a time


class Segments(NamedTuple):
    """A partition of an image's pixels.

    Attributes:
      ids: (h, w), of each pixel the position of its segment in the lists below; 0 everywhere if
        there is none.
      queries, labels, scores, areas: of each segment; where stuff was merged, the first query's.
    """

    ids: Int[np.ndarray, "h w"]
    queries: Int[np.ndarray, " m"]
    labels: Int[np.ndarray, " m"]
    scores: Float[np.ndarray, " m"]
    areas: Int[np.ndarray, " m"]


def own_part(
    logits: Float[np.ndarray, "q h w"], canvas: Size, size: Size
) -> Float[np.ndarray, "q _h _w"]:
    """The logits of an image alone, cut from an exact canvas of (h, w); they cover its `size`."""
    height, width = (
        -(-own * have // whole)
        for own, have, whole in zip(size, logits.shape[1:], canvas, strict=True)
    )
    return logits[:, :height, :width]


def instance_masks(
    logits: Float[np.ndarray, "q h w"],
    covers: Size,
    size: Size,
    original: Size,
    threshold: float = 0.5,
) -> Bool[np.ndarray, "q _h _w"]:
    """A mask for every query: a pixel belongs to it where the sigmoid is above `threshold`.

    The originals threshold at `size` and go on to `original` by nearest neighbour; the same
    pixels are computed here without the others.
    """
    limit = np.float32(np.log(threshold) - np.log1p(-threshold))
    masks = np.empty((len(logits), *original), bool)
    rows = _taps(logits.shape[1], covers[0], _torch_nearest(size[0], original[0]))
    columns = _taps(logits.shape[2], covers[1], _torch_nearest(size[1], original[1]))
    for strip in _strips(len(logits), original):
        masks[:, strip] = _resized(logits, rows.part(strip), columns) > limit
    return masks


def panoptic_segments(
    class_logits: Float[np.ndarray, "q k"],
    logits: Float[np.ndarray, "q h w"],
    covers: Size,
    size: Size,
    original: Size,
    things: Sequence[bool | None],
    threshold: float = THRESHOLD,
    small: int = SMALL,
) -> Segments:
    """Every pixel goes to the query of the largest mask logit, among those sure of their class.

    Queries of one stuff class are one segment. Then segments of `small` pixels and less are
    dropped and the pixels given out anew, until none is left. As in the original, stuff is not
    merged again after a drop: the duplicates are gone then, having no pixels of their own.

    Args:
      class_logits: the last of them is no-object.
      things: whether each label is a thing (else stuff); None for one that takes no part.
      threshold: a query takes part if its probability is above.
    """
    queries, labels, scores = _sure(class_logits, things, threshold)
    rows = _taps(logits.shape[1], covers[0], _pillow_nearest(size[0], original[0]))
    columns = _taps(logits.shape[2], covers[1], _pillow_nearest(size[1], original[1]))
    merge = _first_of_stuff(labels, things)
    while True:
        ids = merge[_best(logits[queries], rows, columns, original)] if len(queries) else None
        if ids is None:
            ids = np.zeros(original, np.int32)
        areas = np.bincount(ids.ravel(), minlength=len(queries))[: len(queries)]
        large = areas > small
        if large.all():
            return Segments(ids, queries, labels, scores, areas)
        queries, labels, scores = queries[large], labels[large], scores[large]
        merge = np.arange(len(queries), dtype=np.int32)


def _sure(class_logits, things, threshold) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Queries whose likeliest class is one, and likely enough; their classes and probabilities."""
    exponentials = np.exp(class_logits - class_logits.max(-1, keepdims=True))
    probabilities = exponentials / exponentials.sum(-1, keepdims=True)
    labels, scores = probabilities.argmax(-1), probabilities.max(-1)
    reported = np.asarray([thing is not None for thing in things] + [False])
    kept = reported[labels] & (scores > threshold)
    queries = np.flatnonzero(kept)
    return queries, labels[queries], scores[queries]


def _first_of_stuff(labels: np.ndarray, things: Sequence[bool | None]) -> np.ndarray:
    """For each query the first one that it is a segment with: itself, but for stuff."""
    first: dict[int, int] = {}
    return np.asarray(
        [n if things[x] else first.setdefault(x, n) for n, x in enumerate(labels.tolist())],
        np.int32,
    )


def _best(logits, rows: "_Taps", columns: "_Taps", original: Size) -> np.ndarray:
    ids = np.empty(original, np.int32)
    for strip in _strips(len(logits), original):
        ids[strip] = _resized(logits, rows.part(strip), columns).argmax(0)
    return ids


class _Taps(NamedTuple):
    """Of each new position the two old ones it lies between, and the share of the second."""

    low: np.ndarray
    high: np.ndarray
    share: np.ndarray

    def part(self, chosen: slice) -> "_Taps":
        return _Taps(*(x[chosen] for x in self))


def _taps(old: int, new: int, positions: np.ndarray) -> _Taps:
    """Bilinear, half-pixel centres, for some of the `new` positions; float32 as torch has it."""
    centre = (positions.astype(np.float32) + np.float32(0.5)) * np.float32(old / new)
    centre = np.maximum(centre - np.float32(0.5), np.float32(0))
    low = np.minimum(centre.astype(np.int64), old - 1)
    return _Taps(low, np.minimum(low + 1, old - 1), centre - low.astype(np.float32))


def _resized(x: np.ndarray, rows: _Taps, columns: _Taps) -> np.ndarray:
    down = rows.share[:, None]
    x = x[:, rows.low] * (1 - down) + x[:, rows.high] * down
    low, high = np.take(x, columns.low, -1), np.take(x, columns.high, -1)
    return low * (1 - columns.share) + high * columns.share


def _strips(depth: int, size: Size) -> Iterator[slice]:
    """Rows of (depth, h, w) in parts that need little memory."""
    height = max(1, _STRIP // max(1, depth * size[1]))
    return (slice(start, start + height) for start in range(0, size[0], height))


def _torch_nearest(old: int, new: int) -> np.ndarray:
    source = np.arange(new, dtype=np.float32) * np.float32(old / new)
    return np.minimum(source.astype(np.int64), old - 1)


def _pillow_nearest(old: int, new: int) -> np.ndarray:
    # Pillow adds up the step in float64; a product would round otherwise.
    source = np.cumsum(np.concatenate([[0.5 * old / new], np.full(new - 1, old / new)]))
    return np.minimum(source.astype(np.int64), old - 1)

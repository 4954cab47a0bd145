"""Canvases: which bucket an image lies on, and how examples become a batch."""

from collections.abc import Sequence

import numpy as np

from jaxseg.data.dataset import Example
from jaxseg.data.edits import Size
from jaxseg.errors import UserError
from jaxseg.structures import Batch, Images, Targets

Buckets = tuple[Size, ...]


def pad_to_multiple(size: Size, multiple: int) -> Size:
    """The smallest canvas (h, w) with sides divisible by `multiple` that holds `size`."""
    return tuple(-(-side // multiple) * multiple for side in size)


def by_area(buckets: Sequence[Size]) -> Buckets:
    """Buckets without repetition, smallest first: the order in which they are tried.

    Raises:
      UserError: there are none, or one is not a pair of positive numbers.
    """
    unique = {tuple(int(side) for side in bucket) for bucket in buckets}
    if not unique or any(len(b) != 2 or min(b) < 1 for b in unique):
        raise UserError(f"buckets must be pairs (height, width) of pixels; got {buckets}")
    return tuple(sorted(unique, key=lambda b: (b[0] * b[1], b)))


def choose_bucket(size: Size, buckets: Buckets) -> int | None:
    """Index of the first bucket that holds (h, w), or None."""
    fits = (i for i, b in enumerate(buckets) if size[0] <= b[0] and size[1] <= b[1])
    return next(fits, None)


def choose_buckets(sizes: np.ndarray, buckets: Buckets) -> np.ndarray:
    """`choose_bucket` for (n, 2) sizes at once; -1 where none fits."""
    fits = (sizes[:, None, :] <= np.asarray(buckets)[None]).all(-1)
    return np.where(fits.any(-1), fits.argmax(-1), -1)


def enclosing_bucket(members: Sequence[int], buckets: Buckets) -> int | None:
    """Index of the first bucket that holds all of several buckets, or None."""
    extent = np.asarray(buckets)[list(members)].max(0)
    return choose_bucket((int(extent[0]), int(extent[1])), buckets)


def collate(
    examples: Sequence[Example | None],
    indices: Sequence[int],
    original_sizes: Sequence[Size],
    canvas: Size,
    max_targets: int,
    masks: bool = False,
) -> Batch:
    """Lay examples at the top left of canvases and their objects into target slots.

    Args:
      examples: None fills a row that stands for no image. Such a row is black and counts as real
        pixels, for attention over nothing but padding is not a number; `Batch.mask` is False.
      indices: position of each image in the data set, -1 for a filling row.
      original_sizes: (h, w) of each file.
      canvas: (h, w).
      max_targets: slots; objects beyond them are left out.
      masks: whether targets carry object masks.
    """
    count, (height, width) = len(examples), canvas
    pixels = np.zeros((count, height, width, 3), np.uint8)
    boxes = np.zeros((count, max_targets, 4), np.float32)
    labels = np.zeros((count, max_targets), np.int32)
    real = np.zeros((count, max_targets), bool)
    object_masks = np.zeros((count, max_targets, height, width), bool) if masks else None
    sizes = np.tile(np.asarray(canvas, np.int32), (count, 1))
    originals = sizes.copy()
    for row, example in enumerate(examples):
        if example is None:
            continue
        h, w = example.size
        n = min(len(example.labels), max_targets)
        pixels[row, :h, :w] = example.image
        boxes[row, :n] = to_cxcywh(example.boxes[:n], (h, w))
        labels[row, :n] = example.labels[:n]
        real[row, :n] = True
        if masks:
            object_masks[row, :n, :h, :w] = example.masks[:n]
        sizes[row], originals[row] = (h, w), original_sizes[row]
    return Batch(
        images=Images(pixels, _extent(sizes, canvas)),
        targets=Targets(labels, boxes, real, object_masks),
        index=np.asarray(indices, np.int32),
        sizes=sizes,
        original_sizes=originals,
        mask=np.asarray([example is not None for example in examples], bool),
    )


def pack_masks(batch: Batch) -> tuple[Batch, np.ndarray | None]:
    """A batch without masks, and the masks of its real targets with eight pixels in a byte."""
    targets = batch.targets
    if targets.masks is None:
        return batch, None
    bits = np.packbits(targets.masks[targets.mask], axis=-1)
    return batch.replace(targets=targets.replace(masks=None)), bits


def unpack_masks(batch: Batch, bits: np.ndarray | None) -> Batch:
    """The batch that `pack_masks` was given."""
    if bits is None:
        return batch
    targets, (height, width) = batch.targets, batch.images.mask.shape[1:]
    masks = np.zeros((*targets.mask.shape, height, width), bool)
    masks[targets.mask] = np.unpackbits(bits, axis=-1, count=width).view(bool)
    return batch.replace(targets=targets.replace(masks=masks))


def to_cxcywh(boxes: np.ndarray, size: Size) -> np.ndarray:
    """xyxy in pixels to cxcywh as fractions of (h, w); float32 (n, 4)."""
    low, high = boxes[:, :2], boxes[:, 2:]
    scale = np.asarray([size[1], size[0]] * 2, np.float32)
    return (np.concatenate([(low + high) / 2, high - low], -1) / scale).astype(np.float32)


def _extent(sizes: np.ndarray, canvas: Size) -> np.ndarray:
    rows = np.arange(canvas[0])[None, :, None] < sizes[:, 0, None, None]
    columns = np.arange(canvas[1])[None, None, :] < sizes[:, 1, None, None]
    return rows & columns

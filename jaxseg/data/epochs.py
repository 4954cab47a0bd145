"""Which images make up each batch of an epoch, and on which canvas: a pure function, no queues."""

from dataclasses import dataclass

import numpy as np

from jaxseg.data.batching import Buckets, enclosing_bucket

EMPTY = -1


def generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """Random numbers of one thing in one epoch.

    Args:
      seed: 0 to 2**32 - 1.
      index: 0 to 2**64 - 1. Images have those below 2**60.
    """
    key = np.asarray([(seed << 32) + epoch, index], np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


@dataclass(frozen=True)
class EpochPlan:
    """The batches of one epoch.

    Attributes:
      rows: int64 (steps, batch); positions in the data set, `EMPTY` for filling rows.
      buckets: int64 (steps,); index of each batch's canvas.
    """

    rows: np.ndarray
    buckets: np.ndarray


def plan_epoch(
    order: np.ndarray,
    bucket_of: np.ndarray,
    buckets: Buckets,
    batch_size: int,
    drop_last: bool,
    chance: float = 0.0,
) -> EpochPlan:
    """Group images of one bucket into batches, in the given order.

    Args:
      order: positions of the images in the data set.
      bucket_of: index of the bucket of each image of the data set.
      buckets: smallest first.
      batch_size: rows of the global batch.
      drop_last: True gives n // batch_size batches (at least one), whatever the buckets, by
        putting left-over images of several buckets on one canvas that holds them all. Where no
        canvas holds all buckets, left-overs of some are dropped and images of others taken
        twice; over the epochs each image comes equally often. False gives every image once and
        fills up the last batch of each bucket.
      chance: drawn from [0, 1) for this epoch; decides which of the left-overs.
    """
    if drop_last:
        batches = _equal_batches(order, bucket_of, buckets, batch_size, chance)
    else:
        batches = _filled_batches(order, bucket_of, buckets, batch_size)
    return EpochPlan(
        np.asarray([row for _, row in batches], np.int64).reshape(-1, batch_size),
        np.asarray([bucket for bucket, _ in batches], np.int64),
    )


def _filled_batches(order, bucket_of, buckets: Buckets, batch_size: int) -> list:
    batches = []
    for bucket in range(len(buckets)):
        members = order[bucket_of[order] == bucket]
        filling = np.full(-len(members) % batch_size, EMPTY)
        rows = np.concatenate([members, filling]).reshape(-1, batch_size)
        batches += [(bucket, row) for row in rows]
    return batches


def _equal_batches(order, bucket_of, buckets: Buckets, batch_size: int, chance: float) -> list:
    count = max(1, len(order) // batch_size)
    kept = order[: count * batch_size]
    groups = _by_enclosing(kept, bucket_of[kept], buckets, batch_size)
    counts = _rounded([len(group) for group in groups], count, chance)
    batches = []
    for group, wanted in zip(groups, counts, strict=True):
        chosen = np.resize(group, wanted * batch_size)
        batches += _batches(chosen, bucket_of[chosen], buckets, batch_size)
    return batches


def _by_enclosing(kept, bucket_of, buckets: Buckets, batch_size: int) -> list[np.ndarray]:
    """The images for each of the canvases that no other encloses.

    Images that several canvases enclose fill up the batches of the first ones.
    """
    sides = np.asarray(buckets)
    within = (sides[:, None] <= sides[None]).all(-1)
    outer = np.flatnonzero(within.sum(1) == 1)
    left, groups = np.ones(len(kept), bool), []
    for position, canvas in enumerate(outer):
        fits = left & within[bucket_of, canvas]
        movable = fits & within[bucket_of][:, outer[position + 1 :]].any(1)
        own = fits & ~movable
        own[np.flatnonzero(movable)[: -own.sum() % batch_size]] = True
        groups.append(kept[own])
        left &= ~own
    return groups


def _rounded(sizes: list[int], count: int, chance: float) -> list[int]:
    """Whole shares of `count` in proportion to sizes; on the average of all chances exactly so.

    Rounding down would leave a group smaller than a batch out of every epoch.
    """
    edges = np.cumsum([0, *sizes]) * count / sum(sizes)
    return np.diff(np.floor(edges + chance).astype(int)).tolist()


def _batches(chosen, bucket_of, buckets: Buckets, batch_size: int) -> list:
    batches, rest = [], []
    for bucket in range(len(buckets)):
        members = chosen[bucket_of == bucket]
        full = len(members) // batch_size * batch_size
        batches += [(bucket, row) for row in members[:full].reshape(-1, batch_size)]
        rest += [(bucket, index) for index in members[full:]]
    for start in range(0, len(rest), batch_size):
        kinds, row = zip(*rest[start : start + batch_size], strict=True)
        batches.append((enclosing_bucket(kinds, buckets), np.asarray(row)))
    return batches

"""Which images make up each batch of an epoch, and on which canvas: a pure function, no queues."""

from dataclasses import dataclass

import numpy as np

from jaxseg.data.batching import Buckets, enclosing_bucket

EMPTY = -1


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
    order: np.ndarray, bucket_of: np.ndarray, buckets: Buckets, batch_size: int, drop_last: bool
) -> EpochPlan:
    """Group images of one bucket into batches, in the given order.

    Args:
      order: positions of the images in the data set.
      bucket_of: index of the bucket of each image of the data set.
      buckets: smallest first.
      batch_size: rows of the global batch.
      drop_last: True gives n // batch_size batches (at least one), whatever the buckets, by
        putting left-over images of several buckets on one canvas that holds them all; False gives
        every image once and fills up the last batch of each bucket.
    """
    groups = {b: order[bucket_of[order] == b] for b in range(len(buckets))}
    batches, leftovers = [], []
    for bucket, members in groups.items():
        full = len(members) // batch_size * batch_size
        batches += [(bucket, row) for row in members[:full].reshape(-1, batch_size)]
        leftovers += [(bucket, index) for index in members[full:]]
        if not drop_last and leftovers:
            batches.append((bucket, _filled(leftovers, batch_size)))
            leftovers = []
    if drop_last:
        wanted = max(1, len(order) // batch_size) - len(batches)
        for k in range(wanted):
            chunk = leftovers[k * batch_size : (k + 1) * batch_size]
            batches.append(_mixed(chunk, groups, buckets, batch_size))
    return EpochPlan(
        np.asarray([row for _, row in batches], np.int64).reshape(-1, batch_size),
        np.asarray([bucket for bucket, _ in batches], np.int64),
    )


def _filled(members: list[tuple[int, int]], batch_size: int) -> np.ndarray:
    row = np.full(batch_size, EMPTY, np.int64)
    row[: len(members)] = [index for _, index in members]
    return row


def _mixed(
    chunk: list[tuple[int, int]], groups: dict[int, np.ndarray], buckets: Buckets, batch_size: int
) -> tuple[int, np.ndarray]:
    """A batch of left-over images; where no canvas holds them all, of the commonest bucket only."""
    kinds = [bucket for bucket, _ in chunk]
    bucket = enclosing_bucket(kinds, buckets)
    if bucket is None:
        bucket = max(set(kinds), key=lambda kind: (kinds.count(kind), -kind))
        row = [index for kind, index in chunk if kind == bucket]
        pool = [index for index in groups[bucket] if index not in row] + row
    else:
        row = [index for _, index in chunk]
        pool = row
    fill = [pool[i % len(pool)] for i in range(batch_size - len(row))]
    return bucket, np.asarray(row + fill, np.int64)

"""What a process has of a batch on a mesh, and exact gathering over processes: every image once,
whoever saw it and however often.
"""

import json
import zlib
from collections.abc import Mapping

import numpy as np

from jaxseg.typing import PyTree

Record = dict


def local_rows(batch: PyTree) -> PyTree:
    """The rows of a global batch that this process's devices hold, each once, as numpy arrays.

    Arrays that lie whole on every device are given whole.
    """
    import jax

    parts = jax.device_get(jax.tree.map(_local_parts, batch))
    joined = lambda rows: rows[0] if len(rows) == 1 else np.concatenate(rows)  # noqa: E731
    return jax.tree.map(joined, parts, is_leaf=lambda x: isinstance(x, list))


def _local_parts(array) -> list:
    # Devices along "tensor" hold the same rows.
    first = (lambda shard: shard.index[0].start or 0) if array.ndim else lambda shard: 0
    parts = {first(shard): shard.data for shard in array.addressable_shards}
    return [parts[start] for start in sorted(parts)]


def gather_bytes(payload: bytes) -> list[bytes]:
    """Every process's payload, in process order, on every process.

    Each process must call this the same number of times; payloads may differ in length.
    """
    import jax
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return [payload]
    lengths = multihost_utils.process_allgather(np.asarray([len(payload)], np.int32)).reshape(-1)
    padded = np.zeros(lengths.max(), np.uint8)
    padded[: len(payload)] = np.frombuffer(payload, np.uint8)
    rows = multihost_utils.process_allgather(padded)
    return [
        row[:length].astype(np.uint8).tobytes() for row, length in zip(rows, lengths, strict=True)
    ]


def gather_records(records_by_index: Mapping[int, list[Record]]) -> dict[int, list[Record]]:
    """Join what each process found into one dict, the same on every process.

    Args:
      records_by_index: for each image that this process evaluated, by its position in the data
        set, the records of its detections (an empty list where there were none).

    Returns:
      The same for the images of all processes, in order of position. Of an image that several
      processes evaluated, the records of the first process are kept.
    """
    payload = zlib.compress(json.dumps(list(records_by_index.items())).encode(), 1)
    merged: dict[int, list[Record]] = {}
    for part in gather_bytes(payload):
        for index, records in json.loads(zlib.decompress(part)):
            merged.setdefault(index, records)
    return dict(sorted(merged.items()))

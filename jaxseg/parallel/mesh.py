"""The mesh: devices arranged along the axes data × fsdp × tensor."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from jaxseg.errors import UserError

AXES = ("data", "fsdp", "tensor")
# A batch is split over both: fsdp is data parallelism whose parameters are split as well.
BATCH_AXES = ("data", "fsdp")


@dataclass(frozen=True)
class MeshShape:
    """How many devices lie along each axis; one of them may be -1: all that are left."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1

    def build(self, devices: Sequence[jax.Device] | None = None) -> Mesh:
        """The mesh over `devices` (default: all devices of all processes).

        Raises:
          UserError: the axes do not multiply to the number of devices.
        """
        devices = jax.devices() if devices is None else list(devices)
        shape = self._sizes(len(devices))
        return jax.make_mesh(shape, AXES, (AxisType.Auto,) * len(AXES), devices=devices)

    def _sizes(self, count: int) -> tuple[int, ...]:
        sizes = (self.data, self.fsdp, self.tensor)
        known = prod(size for size in sizes if size != -1)
        free = sizes.count(-1)
        valid = all(size == -1 or size > 0 for size in sizes) and free <= 1
        if not valid or (count % known if free else known != count):
            raise UserError(
                f"a mesh of data={self.data} × fsdp={self.fsdp} × tensor={self.tensor} does not "
                f"cover {count} device(s): the sizes must multiply to {count}, and one of them "
                "may be -1 for all that are left. Set mesh.data, mesh.fsdp and mesh.tensor"
            )
        return tuple(count // known if size == -1 else size for size in sizes)


def batch_shards(mesh: Mesh) -> int:
    """Into how many parts the batch is split."""
    return prod(mesh.shape[axis] for axis in BATCH_AXES)


def loader_shard(mesh: Mesh, process_index: int | None = None) -> tuple[int, int]:
    """Which part of every batch a process must load, as (index, count).

    Processes that differ only along "tensor" load the same rows.

    Raises:
      UserError: two processes would share some of their rows but not all.
    """
    if process_index is None:
        process_index = jax.process_index()
    rows = mesh.devices.reshape(-1, mesh.shape["tensor"])  # BATCH_AXES come first in AXES
    owned: dict[int, list[int]] = {}
    for row, devices in enumerate(rows):
        for process in sorted({device.process_index for device in devices}):
            owned.setdefault(process, []).append(row)
    parts = sorted({tuple(part) for part in owned.values()})
    if len(np.unique(np.concatenate(parts))) != sum(map(len, parts)):
        raise UserError(
            "the mesh gives two processes overlapping rows of the batch: choose mesh.tensor so "
            "that it divides, or is a multiple of, the devices of one process"
        )
    return parts.index(tuple(owned[process_index])), len(parts)

"""Which images a step takes and on which canvas, from (seed, step) and the images' sizes alone."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxseg.data.batching import Buckets, choose_buckets
from jaxseg.data.edits import Size, final_size
from jaxseg.data.epochs import EpochPlan, plan_epoch
from jaxseg.data.transforms import Transform
from jaxseg.errors import UserError

# An index that no image has: the generator of an epoch's order.
_ORDER = 2**63


class CanvasError(UserError):
    """An image is larger than the canvases: a matter of settings, not of the image."""


class Place(NamedTuple):
    """What a step is.

    Attributes:
      epoch: that it belongs to.
      bucket: index of its canvas.
      rows: int64 (batch,); positions in the data set, `epochs.EMPTY` for filling rows.
    """

    epoch: int
    bucket: int
    rows: np.ndarray


class Schedule:
    """The same on every host and in every worker process; the arguments are those of `Loader`.

    Attributes:
      buckets: smallest first.
      steps_per_epoch: batches of an epoch.

    Raises:
      UserError: no images, a seed out of range, or an image that fits no bucket.
    """

    def __init__(
        self,
        sizes: np.ndarray,
        image_ids: Sequence[int | str],
        *,
        transform: Transform,
        buckets: Buckets,
        batch_size: int,
        seed: int,
        shuffle: bool,
        repeat: bool,
        drop_last: bool,
    ):
        if not len(sizes):
            raise UserError("the data set has no images: there is nothing to load")
        if repeat and not drop_last:
            raise ValueError("repeat=True needs drop_last=True: epochs must be of one length")
        if not 0 <= seed < 2**32:
            raise UserError(f"seed must be a whole number from 0 to 2**32 - 1; got {seed}")
        self.buckets = buckets
        self._sizes, self._image_ids, self._transform = sizes, image_ids, transform
        self._batch_size, self._seed = batch_size, seed
        self._shuffle, self._repeat, self._drop_last = shuffle, repeat, drop_last
        self._plans: dict[int, EpochPlan] = {}
        # With one bucket a plan needs no sizes; a canvas that is too small should not wait to
        # show until its image's turn comes.
        _, first = np.unique(sizes, axis=0, return_index=True)
        self._fitting(first.tolist(), 0)
        self.steps_per_epoch = len(self._plan(0).buckets)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_plans": {}}

    def locate(self, step: int) -> Place:
        """Epoch, canvas and images of a step.

        Raises:
          IndexError: the step is negative, or past the one epoch of a loader without repeat.
        """
        epoch, position = divmod(step, self.steps_per_epoch)
        if step < 0 or (epoch and not self._repeat):
            raise IndexError(f"step must be in 0..{self.steps_per_epoch - 1}; got {step}")
        plan = self._plan(epoch)
        return Place(epoch, int(plan.buckets[position]), plan.rows[position])

    def check_fit(self, index: int, size: Size, place: Place) -> None:
        """Raise `CanvasError` if an image as it is augmented does not fit the canvas of a step.

        With one bucket, plans are made without sizes.
        """
        canvas = self.buckets[place.bucket]
        if size[0] > canvas[0] or size[1] > canvas[1]:
            raise self._too_large(index, size, self.buckets)

    def companions(self, index: int, place: Place) -> list[int]:
        """The other images on the canvas of a step in its epoch, from the one after `index` on."""
        plan = self._plan(place.epoch)
        others = plan.rows[plan.buckets == place.bucket].ravel()
        others = np.roll(others, -int(np.argmax(others == index)))
        return others[others != index].tolist()

    def rng(self, epoch: int, index: int) -> np.random.Generator:
        """The generator of one image in one epoch."""
        key = np.asarray([(self._seed << 32) + epoch, index], np.uint64)
        return np.random.Generator(np.random.Philox(key=key))

    def _plan(self, epoch: int) -> EpochPlan:
        plan = self._plans.get(epoch)
        if plan is None:
            plan = self._make_plan(epoch)
            # Threads of the loader may stand on both sides of an epoch's end.
            self._plans = {**{e: p for e, p in self._plans.items() if e == epoch - 1}, epoch: plan}
        return plan

    def _make_plan(self, epoch: int) -> EpochPlan:
        n, rng = len(self._sizes), self.rng(epoch, _ORDER)
        order = rng.permutation(n) if self._shuffle else np.arange(n)
        if len(self.buckets) == 1:
            bucket_of = np.zeros(n, np.int64)
        else:
            bucket_of = self._fitting(range(n), epoch)
        plan = plan_epoch(
            order, bucket_of, self.buckets, self._batch_size, self._drop_last, rng.random()
        )
        if not self._shuffle:
            return plan
        # Else the buckets would come one after the other.
        shuffled = rng.permutation(len(plan.buckets))
        return EpochPlan(plan.rows[shuffled], plan.buckets[shuffled])

    def _fitting(self, indices: Sequence[int], epoch: int) -> np.ndarray:
        """The bucket of each of some images."""
        sizes = np.asarray([self._size(i, epoch) for i in indices])
        chosen = choose_buckets(sizes, self.buckets)
        if (chosen < 0).any():
            at = int(np.argmin(chosen))
            raise self._too_large(indices[at], sizes[at], self.buckets)
        return chosen

    def _too_large(self, index: int, size: Size, canvases: Buckets) -> "CanvasError":
        return CanvasError(
            f"image {self._image_ids[index]!r} becomes {size[0]} x {size[1]} (height x width) and "
            f"fits none of the buckets {canvases}: add a larger one, or resize to smaller sizes. "
            "In a config these are data.buckets and data.transform (`--show` lists its sizes); "
            "data.scale changes all of them together"
        )

    def _size(self, index: int, epoch: int) -> Size:
        size = tuple(map(int, self._sizes[index]))
        return final_size(self._transform.draw(size, self.rng(epoch, index)), size)

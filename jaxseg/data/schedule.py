"""Which images a step takes and on which canvas, from (seed, step) and the images' sizes alone."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from jaxseg.data.batching import Buckets, choose_buckets
from jaxseg.data.edits import Size, final_size
from jaxseg.data.epochs import EMPTY, EpochPlan, generator, plan_epoch
from jaxseg.data.transforms import Transform
from jaxseg.errors import UserError

# Indices that no image has: the generator of an epoch's order, and those of images' captions.
_ORDER = 2**63
_CAPTIONS = 2**62


class CanvasError(UserError):
    """An image is larger than the canvases: a matter of settings, not of the image."""


class Place(NamedTuple):
    """What a step is.

    Attributes:
      epoch: that it belongs to.
      bucket: index of its canvas.
      rows: int64 (batch,); positions in the data set, `epochs.EMPTY` for filling rows. In an
        epoch that takes images several times (`mixture`), the number of images is added to a
        position each time.
    """

    epoch: int
    bucket: int
    rows: np.ndarray


class Schedule:
    """The same on every host and in every worker process; the arguments are those of `Loader`.

    Beside them `draws` gives the rows of an epoch from (seed, epoch), of a data set that is not
    taken image by image; see `mixture`.

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
        draws: Callable[[int, int], np.ndarray] | None = None,
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
        self._draws = draws if shuffle else None
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

    def image(self, row: int) -> int:
        """The position in the data set of a row of a place."""
        return row % len(self._sizes)

    def check_fit(self, row: int, size: Size, place: Place) -> None:
        """Raise `CanvasError` if an image as it is augmented does not fit the canvas of a step.

        With one bucket, plans are made without sizes.
        """
        canvas = self.buckets[place.bucket]
        if size[0] > canvas[0] or size[1] > canvas[1]:
            raise self._too_large(row, size, self.buckets)

    def companions(self, row: int, place: Place) -> list[int]:
        """The other rows on the canvas of a step in its epoch, from the one after `row` on."""
        plan = self._plan(place.epoch)
        others = plan.rows[plan.buckets == place.bucket].ravel()
        others = np.roll(others, -int(np.argmax(others == row)))
        return others[others != row].tolist()

    def rng(self, epoch: int, row: int) -> np.random.Generator:
        """The generator of one image in one epoch."""
        return generator(self._seed, epoch, row)

    def caption_rng(self, epoch: int, row: int) -> np.random.Generator:
        """The generator of its caption."""
        return generator(self._seed, epoch, _CAPTIONS + row)

    def _plan(self, epoch: int) -> EpochPlan:
        plan = self._plans.get(epoch)
        if plan is None:
            plan = self._make_plan(epoch)
            # Threads of the loader may stand on both sides of an epoch's end.
            self._plans = {**{e: p for e, p in self._plans.items() if e == epoch - 1}, epoch: plan}
        return plan

    def _make_plan(self, epoch: int) -> EpochPlan:
        rng = self.rng(epoch, _ORDER)
        order = self._order(epoch, rng)
        if len(self.buckets) == 1:
            bucket_of = np.zeros(len(order), np.int64)
        else:
            bucket_of = self._fitting(order.tolist(), epoch)
        places = np.arange(len(order))
        plan = plan_epoch(
            places, bucket_of, self.buckets, self._batch_size, self._drop_last, rng.random()
        )
        rows = np.where(plan.rows == EMPTY, EMPTY, order[plan.rows])
        if not self._shuffle:
            return EpochPlan(rows, plan.buckets)
        # Else the buckets would come one after the other.
        shuffled = rng.permutation(len(plan.buckets))
        return EpochPlan(rows[shuffled], plan.buckets[shuffled])

    def _order(self, epoch: int, rng: np.random.Generator) -> np.ndarray:
        if self._draws is not None:
            return self._draws(self._seed, epoch)
        n = len(self._sizes)
        return rng.permutation(n) if self._shuffle else np.arange(n)

    def _fitting(self, rows: Sequence[int], epoch: int) -> np.ndarray:
        """The bucket of each of some images."""
        sizes = np.asarray([self._size(row, epoch) for row in rows])
        chosen = choose_buckets(sizes, self.buckets)
        if (chosen < 0).any():
            at = int(np.argmin(chosen))
            raise self._too_large(rows[at], sizes[at], self.buckets)
        return chosen

    def _too_large(self, row: int, size: Size, canvases: Buckets) -> "CanvasError":
        image_id = self._image_ids[self.image(row)]
        return CanvasError(
            f"image {image_id!r} becomes {size[0]} x {size[1]} (height x width) and "
            f"fits none of the buckets {canvases}: add a larger one, or resize to smaller sizes. "
            "In a config these are data.buckets and data.transform (`--show` lists its sizes); "
            "data.scale changes all of them together"
        )

    def _size(self, row: int, epoch: int) -> Size:
        size = tuple(map(int, self._sizes[self.image(row)]))
        return final_size(self._transform.draw(size, self.rng(epoch, row)), size)

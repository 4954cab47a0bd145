"""A loader whose position is one number: the step.

What step k yields is a pure function of (seed, k) and of the data set, on every host alike, so a
run resumes exactly by asking for step k again, and hosts agree on shapes without talking.
"""

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Literal

from jaxseg.data.batching import by_area, collate, pack_masks, unpack_masks
from jaxseg.data.captions import caption_batch, name_objects
from jaxseg.data.dataset import Dataset
from jaxseg.data.edits import Size, apply, final_size
from jaxseg.data.epochs import EMPTY
from jaxseg.data.loaded import END, Loaded, Row, warn_dropped, warn_unnamed
from jaxseg.data.prompts import Prompter, Prompts
from jaxseg.data.schedule import CanvasError, Place, Schedule
from jaxseg.data.transforms import Transform
from jaxseg.data.workers import elements, in_workers
from jaxseg.errors import UserError
from jaxseg.structures import Batch

_REPLACEMENTS = 20


class Loader:
    """Batches of augmented images on canvases of a few sizes.

    Args:
      dataset: random access to examples, with their sizes known.
      batch_size: images of a step, over all processes.
      buckets: the canvases (h, w); an image lies on the smallest that holds it.
      transform: drawn anew for every image and epoch.
      max_targets: slots for objects; the first so many of an image are kept.
      seed: of order and augmentation, 0 to 2**32 - 1.
      process_index, process_count: which rows of the global batch are ours.
      workers: processes that decode; 0 decodes in threads of this one.
      shuffle: a fresh order each epoch.
      repeat: epoch after epoch without end, or one.
      drop_last: True gives len(dataset) // batch_size steps an epoch; False gives every image
        exactly once and fills up with rows whose `Batch.mask` is False. None means `repeat`.
      masks: whether targets carry object masks (of a data set opened with masks). They take
        batch_size · max_targets · h · w bytes, 0.96 GiB for 16 images with 60 slots on 800 × 1344;
        batches that wait hold those of real objects alone, in bits: up to 0.12 GiB each, and
        each worker has up to five.
      prompts: how images are asked for; None makes no captions. Labels then are places in the
        caption, and `Targets.tokens` are set.
      on_error: what an unreadable image does: "raise", or "skip": in training another image takes
        its place, otherwise its row stays empty; `skipped` holds the messages.

    Attributes:
      steps_per_epoch: batches of an epoch.
      buckets: the canvases, smallest first.
      dropped: objects left out for want of slots, so far.
      unnamed: objects left out because their name did not fit in the caption, so far.
      skipped: messages of the images skipped so far.

    Raises:
      UserError: an empty data set, a batch that does not divide over the processes, or an image
        that fits no bucket.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        batch_size: int,
        buckets: Sequence[Size],
        transform: Transform,
        max_targets: int,
        seed: int,
        process_index: int = 0,
        process_count: int = 1,
        workers: int = 0,
        shuffle: bool = True,
        repeat: bool = True,
        drop_last: bool | None = None,
        masks: bool = False,
        prompts: Prompts | None = None,
        on_error: Literal["raise", "skip"] = "raise",
    ):
        if batch_size < 1 or batch_size % process_count:
            raise UserError(
                f"the batch of {batch_size} images does not divide over {process_count} processes; "
                f"choose a multiple of {process_count}"
            )
        self._schedule = Schedule(
            dataset.sizes,
            dataset.image_ids,
            transform=transform,
            buckets=by_area(buckets),
            batch_size=batch_size,
            seed=seed,
            shuffle=shuffle,
            repeat=repeat,
            drop_last=repeat if drop_last is None else drop_last,
            draws=getattr(dataset, "draws", None),
        )
        self.dataset, self._transform = dataset, transform
        self._max_targets, self._masks, self._workers = max_targets, masks, workers
        local = batch_size // process_count
        self._ours = slice(process_index * local, (process_index + 1) * local)
        self._repeat, self._skip = repeat, on_error == "skip"
        self._prompter = None if prompts is None else Prompter(prompts)
        self.dropped, self.unnamed, self.skipped = 0, 0, []
        self.steps_per_epoch = self._schedule.steps_per_epoch
        self.buckets = self._schedule.buckets

    def bucket(self, step: int) -> Size:
        """The canvas (h, w) of a step."""
        return self.buckets[self._schedule.locate(step).bucket]

    def batch(self, step: int) -> Batch:
        """This process's rows of a step's batch; numpy arrays, uint8 images.

        Raises:
          UserError: an image cannot be read; names the file.
        """
        return self._account(self._load(step))

    def iterate(self, start_step: int = 0, num_steps: int | None = None) -> Iterator[Batch]:
        """Batches of the steps from `start_step` on, loaded ahead by threads or processes.

        Args:
          start_step: where to go on; any step, at no cost.
          num_steps: how many; None goes on without end, or to the end of the one epoch.

        Raises:
          UserError: as `batch`.
        """
        import grain

        stop = 2**62 if self._repeat else self.steps_per_epoch
        if num_steps is not None:
            stop = min(stop, start_step + num_steps)
        if stop <= start_step:
            return
        workers = min(self._workers, stop - start_step)
        # One more a worker: grain holds on to each worker's last element, and what that has in
        # shared memory would be left behind. `END` has nothing there.
        steps = grain.MapDataset.range(start_step, stop + max(workers, 1))
        ahead = grain.ReadOptions(num_threads=1 if workers else 2, prefetch_buffer_size=2)
        stream = steps.map(partial(self._attempt, stop)).to_iter_dataset(ahead)
        if workers:
            stream = in_workers(stream, workers)
        with contextlib.closing(elements(stream)) as loading:
            for loaded in loading:
                if loaded == END:
                    return
                yield self._account(loaded)

    def _attempt(self, stop: int, step: int) -> Loaded:
        if step >= stop:
            return END
        # An exception would cross the process border as text; this way it keeps its kind.
        try:
            loaded = self._load(step)
        except UserError as error:
            return Loaded(None, [], [], str(error))
        batch, bits = pack_masks(loaded.batch)
        return loaded._replace(batch=batch, bits=bits)

    def _account(self, loaded: Loaded) -> Batch:
        if loaded.error is not None:
            raise UserError(loaded.error)
        if loaded.dropped and self._repeat and not self.dropped:
            warn_dropped(loaded.dropped[0], self._max_targets)
        if loaded.unnamed and not self.unnamed:
            warn_unnamed(loaded.unnamed[0])
        self.dropped += sum(count for _, count in loaded.dropped)
        self.unnamed += sum(count for _, count in loaded.unnamed)
        for message in loaded.skipped:
            self.skipped.append(message)
            # The number makes each its own: Python says the same warning once only.
            warnings.warn(f"skipped: {message} ({len(self.skipped)} so far)", stacklevel=3)
        return unpack_masks(loaded.batch, loaded.bits)

    def _load(self, step: int) -> Loaded:
        place = self._schedule.locate(step)
        skipped: list[str] = []
        rows = [
            Row() if row == EMPTY else self._read(row, place, skipped)
            for row in place.rows[self._ours].tolist()
        ]
        batch = collate(
            [row.example for row in rows],
            [row.index for row in rows],
            [(0, 0) if r.index == EMPTY else tuple(self.dataset.sizes[r.index]) for r in rows],
            self.buckets[place.bucket],
            self._max_targets,
            self._masks,
        )
        if self._prompter is not None:
            asked, named = [row.prompt for row in rows], [row.named for row in rows]
            batch = caption_batch(batch, asked, named, self._prompter)
        real = [row for row in rows if row.example is not None]
        beyond = [(r.example.file_name, len(r.example.labels) - self._max_targets) for r in real]
        unnamed = [(row.example.file_name, row.unnamed) for row in real if row.unnamed]
        return Loaded(batch, [(name, n) for name, n in beyond if n > 0], skipped, unnamed=unnamed)

    def _read(self, row: int, place: Place, skipped: list[str]) -> Row:
        """An augmented example, or what stands in for it if it cannot be read."""
        try:
            return self._example(row, place)
        except UserError as error:
            if isinstance(error, CanvasError) or not self._skip:
                raise
            skipped.append(str(error))
        if not self._repeat:
            return Row()
        # Which image takes the place depends on `row` and the epoch alone.
        for other in self._schedule.companions(row, place)[:_REPLACEMENTS]:
            try:
                return self._example(other, place)
            except CanvasError:
                raise
            except UserError as error:
                skipped.append(str(error))
        raise UserError(f"too many images cannot be read; the last said: {skipped[-1]}")

    def _example(self, row: int, place: Place) -> Row:
        index = self._schedule.image(row)
        whole = self.dataset[index]
        example = whole.select(~whole.iscrowd)
        edits = self._transform.draw(example.size, self._schedule.rng(place.epoch, row))
        self._schedule.check_fit(row, final_size(edits, example.size), place)
        example = apply(edits, example)
        if self._prompter is None:
            return Row(example, index)
        rng = self._schedule.caption_rng(place.epoch, row)
        crowds = whole.labels[whole.iscrowd]
        prompt = self._prompter.draw(example, self.dataset.classes.names, rng, crowds)
        kept, named = name_objects(example, prompt, self._prompter)
        return Row(kept, index, prompt, named, len(example.labels) - len(kept.labels))

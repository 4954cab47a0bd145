"""Run a detector over a data set and compare it with the ground truth."""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from jaxseg.eval.coco_ap import CocoTable, Record, coco_table
from jaxseg.eval.gather import gather_records
from jaxseg.eval.results import coco_records
from jaxseg.structures import Batch, Detections
from jaxseg.typing import PyTree


class Answer(NamedTuple):
    """What one call of the model tells about a batch.

    Attributes:
      detections: in pixels of the original images.
      index: position of each image in its data set.
      mask: True on real images, False on rows that fill up the batch.
    """

    detections: Detections
    index: jax.Array
    mask: jax.Array


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
      table: the COCO metrics.
      records: all detections in COCO's form, in order of the data set's images.
      images: how many were evaluated.
      images_per_second: of all processes together, without the time spent compiling.
    """

    table: CocoTable
    records: list[Record]
    images: int
    images_per_second: float

    def metrics(self) -> dict[str, float]:
        """The COCO metrics, "AP/<class>" for each class, and "images_per_second"."""
        return self.table.metrics() | {"images_per_second": self.images_per_second}


@dataclass(frozen=True)
class Evaluator:
    """A data set ready to judge any parameters of one model; `make_evaluator` builds it.

    Attributes:
      detect: (params, batch) -> Answer; compiles once for each shape of batch.
      batches: a new pass over this process's batches.
      image_ids: of all images, as the data set writes them.
      category_ids: the data set's category of each label of the model, None for no category.
      ground_truth: COCO's JSON form.
      share: which positions this process reports, of those that it has answers for.
      precision: of matrix products (`jax.default_matmul_precision`); None leaves it alone.
      progress: show a bar on the terminal of process 0.
    """

    detect: Callable[[PyTree, Batch], Answer]
    batches: Callable[[], Iterable[Batch]]
    image_ids: Sequence
    category_ids: Sequence[int | None]
    ground_truth: dict[str, Any]
    share: Callable[[int], bool] = lambda position: True
    precision: str | None = None
    progress: bool = True

    def __call__(self, params: PyTree, step: int | None = None) -> dict[str, float]:
        """Metrics of `params` as one flat dict; `step` only names the progress bar."""
        return self.evaluate(params, "eval" if step is None else f"eval at {step}").metrics()

    def evaluate(self, params: PyTree, title: str = "eval") -> Evaluation:
        """Detect in every image, gather over processes, compare with the ground truth.

        Every process must call this, and each gets the same answer.

        Raises:
          RuntimeError: an image of the data set was not evaluated by any process.
        """
        found: dict[int, list[Record]] = {}
        clock = Clock()
        context = jax.default_matmul_precision(self.precision) if self.precision else nullcontext()
        with context, self._bar(title) as bar:
            waiting = None
            for batch in self.batches():
                answer = clock.call(self.detect, params, batch)
                # Read the previous answer while the device computes this one.
                bar.update(self._collect(waiting, found))
                waiting = answer
            bar.update(self._collect(waiting, found))
        rate = clock.rate(len(self.image_ids))
        gathered = gather_records(found)
        if len(gathered) != len(self.image_ids):
            raise RuntimeError(
                f"{len(gathered)} of {len(self.image_ids)} images were evaluated: the loaders of "
                "the processes do not cover the data set"
            )
        records = [record for image in gathered.values() for record in image]
        table = coco_table(self.ground_truth, records, image_ids=self.image_ids)
        return Evaluation(table, records, len(gathered), rate)

    def _bar(self, title: str) -> tqdm:
        quiet = not self.progress or jax.process_index() != 0
        total = len(self.image_ids)
        return tqdm(desc=title, total=total, unit="image", leave=False, disable=quiet or None)

    def _collect(self, answer: Answer | None, found: dict[int, list[Record]]) -> int:
        """Add this process's share of an answer to `found`; how many images that were."""
        if answer is None:
            return 0
        detections, index, mask = jax.device_get(answer)
        rows = [row for row in np.flatnonzero(mask) if self.share(int(index[row]))]
        for row in rows:
            one = jax.tree.map(lambda x, row=row: x[row : row + 1], detections)
            image_id = self.image_ids[index[row]]
            found[int(index[row])] = coco_records(one, [image_id], self.category_ids)
        return int(np.count_nonzero(mask))


@dataclass
class Clock:
    """Measures speed without the first batch of each shape, which waits for the compiler."""

    start: float = field(default_factory=time.perf_counter)
    compiling: float = 0.0
    batches: int = 0
    shapes: set = field(default_factory=set)

    def call(self, detect: Callable, params: PyTree, batch: Batch) -> Answer:
        """`detect(params, batch)`; waited for if the shape is new."""
        self.batches += 1
        shape = batch.images.pixels.shape
        if shape in self.shapes:
            return detect(params, batch)
        self.shapes.add(shape)
        start = time.perf_counter()
        answer = jax.block_until_ready(detect(params, batch))
        self.compiling += time.perf_counter() - start
        return answer

    def rate(self, images: int) -> float:
        """Images per second, if `images` came in the batches so far; with compilation if each
        batch had a new shape.
        """
        seconds = time.perf_counter() - self.start
        warm = self.batches - len(self.shapes)
        if not warm:
            return images / seconds
        return images * warm / self.batches / (seconds - self.compiling)

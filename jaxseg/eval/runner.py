"""Run a detector over a data set and compare it with the ground truth."""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from jaxseg.eval.coco_ap import CocoTable, Record, coco_table
from jaxseg.eval.fixed import BestScores, Federation, best_records
from jaxseg.eval.gather import gather_records, local_rows
from jaxseg.eval.mask_judge import MaskJudge
from jaxseg.eval.panoptic import PanopticTable, panoptic_table
from jaxseg.eval.referring import ReferringTable
from jaxseg.eval.results import coco_records
from jaxseg.predict.masks import ImageMasks, QueryMasks
from jaxseg.predict.preprocess import Size
from jaxseg.structures import Batch, Detections
from jaxseg.typing import PyTree

# That draw masks: numpy works without Python's lock for the most part.
THREADS = min(8, os.cpu_count() or 1)


class Answer(NamedTuple):
    """What one call of the model tells about a batch, row by row; on a mesh of all processes.

    Attributes:
      detections: in pixels of the original images.
      index: position of each image in its data set.
      mask: True on real images, False on rows that fill up the batch.
      count: of the real images.
      masks: of the queries, if masks are judged.
      sizes, original_sizes: (h, w) of each image on the canvas and in its file.
    """

    detections: Detections
    index: jax.Array
    mask: jax.Array
    count: jax.Array
    masks: QueryMasks | None = None
    sizes: jax.Array | None = None
    original_sizes: jax.Array | None = None


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
      table: the metrics of boxes: COCO's, LVIS's, or the accuracy of referring expressions.
      records: all detections in COCO's form, in order of the data set's images; of LVIS those that
        are judged.
      images: how many were evaluated.
      images_per_second: of all processes together, without the time spent compiling.
      masks: the COCO metrics of masks, where they were judged.
      panoptic: panoptic quality, where it was judged.
    """

    table: CocoTable | ReferringTable
    records: list[Record]
    images: int
    images_per_second: float
    masks: CocoTable | None = None
    panoptic: PanopticTable | None = None

    def metrics(self) -> dict[str, float]:
        """The table's metrics, "AP/<class>" for each class, and "images_per_second".

        Those of masks begin with "mask_"; panoptic quality is "PQ" and so on.
        """
        metrics = self.table.metrics()
        if self.masks is not None:
            metrics |= {f"mask_{name}": value for name, value in self.masks.metrics().items()}
        if self.panoptic is not None:
            metrics |= self.panoptic.metrics()
        return metrics | {"images_per_second": self.images_per_second}


@dataclass(frozen=True)
class Evaluator:
    """A data set ready to judge any parameters of one model; `make_evaluator` builds it.

    Attributes:
      detect: (params, batch) -> Answer; compiles once for each shape of batch.
      batches: a new pass over this process's batches.
      image_ids: of all images, as the data set writes them.
      category_ids: the data set's category of each label of the model, None for no category.
      ground_truth: COCO's JSON form.
      share: which positions this process reports, of those whose rows it holds.
      precision: of matrix products (`jax.default_matmul_precision`); None leaves it alone.
      progress: show a bar on the terminal of process 0.
      judge: of masks, if they are judged.
      compare: ground truth, records, kind of overlap and image ids to a table.
      federation: of LVIS, which of the detections are judged.
    """

    detect: Callable[[PyTree, Batch], Answer]
    batches: Callable[[], Iterable[Batch]]
    image_ids: Sequence
    category_ids: Sequence[int | None]
    ground_truth: dict[str, Any]
    share: Callable[[int], bool] = lambda position: True
    precision: str | None = None
    progress: bool = True
    judge: MaskJudge | None = None
    compare: Callable[..., CocoTable | ReferringTable] = coco_table
    federation: Federation | None = None

    def __call__(self, params: PyTree, step: int | None = None) -> dict[str, float]:
        """Metrics of `params` as one flat dict; `step` only names the progress bar."""
        return self.evaluate(params, "eval" if step is None else f"eval at {step}").metrics()

    def evaluate(self, params: PyTree, title: str = "eval") -> Evaluation:
        """Detect in every image, gather over processes, compare with the ground truth.

        Every process must call this, and each gets the same answer.

        Raises:
          RuntimeError: an image of the data set was not evaluated by any process.
        """
        clock = Clock()
        context = jax.default_matmul_precision(self.precision) if self.precision else nullcontext()
        with context, self._bar(title) as bar, ThreadPoolExecutor(THREADS) as pool:
            limit = 0 if self.federation is None else self.federation.limit
            found, waiting = Found({}, {}, pool, BestScores(limit)), None
            for batch in self.batches():
                answer = clock.call(self.detect, params, batch)
                # Read the previous answer while the device computes this one.
                bar.update(self._collect(waiting, found))
                waiting = answer, batch.images.pixels.shape[1:3]
            bar.update(self._collect(waiting, found))
        rate = clock.rate(len(self.image_ids))
        gathered = gather_records(found.detections)
        if len(gathered) != len(self.image_ids):
            raise RuntimeError(
                f"{len(gathered)} of {len(self.image_ids)} images were evaluated: the loaders of "
                "the processes do not cover the data set"
            )
        records = [record for image in gathered.values() for record in image]
        if self.federation is not None:
            records = best_records(records, found.best.gather().least())
        table = self.compare(self.ground_truth, records, "bbox", self.image_ids)
        judged = {} if self.judge is None else self._judged(records, found)
        return Evaluation(table, records, len(gathered), rate, **judged)

    def _judged(self, records: list[Record], found: "Found") -> dict[str, Any]:
        tables: dict[str, Any] = {}
        if self.judge.instances:
            tables["masks"] = self.compare(self.ground_truth, records, "segm", self.image_ids)
        if self.judge.panoptic is not None:
            matches = [match for image in gather_records(found.matches).values() for match in image]
            tables["panoptic"] = panoptic_table(matches, self.ground_truth["categories"])
        return tables

    def _bar(self, title: str) -> tqdm:
        quiet = not self.progress or jax.process_index() != 0
        total = len(self.image_ids)
        return tqdm(desc=title, total=total, unit="image", leave=False, disable=quiet or None)

    def _collect(self, waiting: tuple[Answer, Size] | None, found: "Found") -> int:
        """Add this process's share of an answer to `found`; how many images the answer had."""
        if waiting is None:
            return 0
        answer, canvas = local_rows(waiting[0]), waiting[1]
        for row in np.flatnonzero(answer.mask):
            index = int(answer.index[row])
            if self.share(index):
                self._collect_image(answer, int(row), index, canvas, found)
        return int(answer.count)

    def _collect_image(self, answer: Answer, row: int, index: int, canvas: Size, found) -> None:
        one = jax.tree.map(lambda x: x[row : row + 1], answer.detections)
        kept, image_id, mask_of = slice(None), self.image_ids[index], None
        if self.federation is not None:
            kept = self.federation.select(one, image_id, self.category_ids, found.best)
            one = jax.tree.map(lambda x: x[:, kept], one)
        if self.judge is not None:
            sizes = (tuple(x[row].tolist()) for x in (answer.sizes, answer.original_sizes))
            masks = ImageMasks.of(answer.masks, row, canvas, *sizes, exact=self.judge.exact)
            if self.judge.instances:
                queries = np.arange(answer.detections.labels.shape[1])[kept]
                mask_of = lambda _, q: masks.instances(queries[[q]])[0]  # noqa: E731
            if self.judge.panoptic is not None:
                found.matches[index] = self.judge.matches(masks, index)
        found.detections[index] = coco_records(
            one, [image_id], self.category_ids, mask_of=mask_of, pool=found.pool
        )


class Found(NamedTuple):
    """What has been found so far.

    Attributes:
      detections, matches: records by position of their image; matches are of segments.
      pool: threads that draw masks.
      best: scores of all detections, if a federation counts them.
    """

    detections: dict[int, list[Record]]
    matches: dict[int, list[Record]]
    pool: ThreadPoolExecutor
    best: BestScores


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

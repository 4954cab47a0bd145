"""Put model, data set and canvases together for an evaluation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxseg.data.captions import ClassPrompts
from jaxseg.data.edits import Resize
from jaxseg.data.loader import Loader
from jaxseg.errors import UserError
from jaxseg.eval.categories import match_categories
from jaxseg.eval.coco_ap import coco_table
from jaxseg.eval.fixed import Federation
from jaxseg.eval.lvis import is_lvis, lvis_table
from jaxseg.eval.mask_judge import mask_judge
from jaxseg.eval.prompted import detect_classes
from jaxseg.eval.runner import Answer, Evaluator
from jaxseg.ops.images import normalize
from jaxseg.parallel.mesh import loader_shard
from jaxseg.parallel.shard import batch_sharding, check_batch_size, global_batch
from jaxseg.params import reads_captions
from jaxseg.predict.masks import predicts_masks, query_masks
from jaxseg.predict.preprocess import Size, default_buckets, resized_size
from jaxseg.pretrained import ImageConfig
from jaxseg.structures import Batch
from jaxseg.typing import PyTree


def make_evaluator(
    model: nn.Module,
    dataset,
    *,
    image: ImageConfig | None = None,
    category_ids: Sequence[int | None] | None = None,
    batch_size: int = 1,
    buckets: Sequence[Size] | None = None,
    canvas: str = "exact",
    mesh: Mesh | None = None,
    limit: int | None = None,
    workers: int = 0,
    precision: str | None = None,
    progress: bool = True,
    masks: bool = True,
    prompts: ClassPrompts | None = None,
    captions_at_once: int = 4,
) -> Evaluator:
    """A function from parameters to COCO metrics on `dataset`.

    Of a model with masks the masks are judged too, where the data set has them: by COCO's metrics
    of masks, or by panoptic quality. LVIS is judged by fixed average precision, for which all that
    is found in answer to each caption is kept.

    Args:
      model: a detector; it is evaluated with `canvas`, whatever its own.
      dataset: of `jaxseg.data.open_dataset`; its ground truth has its own category ids.
      image: how images are resized and normalised; None is DETR's 800 to 1333 pixels.
      category_ids: of each label of the model; None takes the data set's numbering.
      batch_size: images at once, of all processes together if there is a mesh, else of each.
      buckets: canvases (h, w); None derives them from `image`.
      canvas: "exact" judges each image as if it were alone; "padded" lets padding matter, as the
        originals do when they evaluate in batches.
      mesh: that the parameters live on; without one each process runs the model by itself.
      limit: use only the first images of the data set.
      workers: processes that load images.
      masks: False judges boxes alone.
      prompts: what a model that reads captions is asked for in every image, with `category_ids` of
        the classes (`data.captions.ask_classes` makes both).
      captions_at_once: of the prompts; more take more memory, and see each image less often.

    Raises:
      UserError: empty data set, a class count that is not the model's, a batch that does not
        divide over the mesh, or masks for some objects only.
    """
    if limit is not None:
        dataset = First(dataset, min(limit, len(dataset)))
    if not len(dataset):
        raise UserError("the data set has no images: there is nothing to evaluate")
    if reads_captions(model) != (prompts is not None):
        raise ValueError(f"prompts are for models that read captions; got {type(model).__name__}")
    if category_ids is None:
        category_ids = match_categories(None, model.num_classes, dataset.classes)
    image = image or ImageConfig()
    buckets = buckets or default_buckets(image.short_side, image.long_side, model.stride)
    loader = canvas_loader(dataset, image, batch_size, buckets, mesh, workers)
    truth = dataset.coco()
    lvis = is_lvis(truth)
    judge = None
    if masks and predicts_masks(model):
        judge = mask_judge(dataset, truth, tuple(category_ids), canvas == "exact")
    return Evaluator(
        detect=_detect(
            model.clone(canvas=canvas),
            image,
            mesh,
            judge is not None,
            prompts,
            captions_at_once,
            lvis,
        ),
        batches=lambda: loader.iterate(0),
        image_ids=dataset.image_ids,
        category_ids=tuple(category_ids),
        ground_truth=truth,
        share=share_of(mesh),
        precision=precision,
        progress=progress,
        judge=judge,
        compare=lvis_table if lvis else coco_table,
        federation=Federation.of(truth) if lvis else None,
    )


def canvas_loader(
    dataset, image: ImageConfig, batch_size: int, buckets: Sequence[Size], mesh, workers: int
) -> Loader:
    """All images once, in order, divided among the processes."""
    index, count = jax.process_index(), jax.process_count()
    if mesh is not None:
        check_batch_size(batch_size, mesh)
        index, count = loader_shard(mesh)
    return Loader(
        dataset,
        batch_size=batch_size if mesh is not None else batch_size * count,
        buckets=buckets,
        transform=ToCanvas(image.short_side, image.long_side, max(map(max, buckets))),
        max_targets=1,
        seed=0,
        process_index=index,
        process_count=count,
        workers=workers,
        shuffle=False,
        repeat=False,
        drop_last=False,
    )


def share_of(mesh: Mesh | None) -> Callable[[int], bool]:
    """Which positions a process reports: of n processes that hold the same rows, every n-th."""
    if mesh is None:
        return lambda position: True
    own, processes = loader_shard(mesh)[0], sorted({d.process_index for d in mesh.devices.flat})
    alike = [process for process in processes if loader_shard(mesh, process)[0] == own]
    rank = alike.index(jax.process_index())
    return lambda position: position % len(alike) == rank


def _detect(
    model: nn.Module,
    image: ImageConfig,
    mesh: Mesh | None,
    masks: bool,
    prompts: ClassPrompts | None = None,
    captions_at_once: int = 4,
    every: bool = False,
) -> Callable[[PyTree, Batch], Answer]:
    def forward(params: PyTree, batch: Batch) -> Answer:
        images = normalize(batch.images, image.mean, image.std)
        drawn = None
        if prompts is None:
            output = model.apply({"params": params}, images, train=False)
            detections = model.detections(output, batch.original_sizes)
            drawn = query_masks(model, output) if masks else None
        else:
            asked = (images, prompts, batch.original_sizes, captions_at_once, every)
            detections = detect_classes(model, params, *asked)
        sizes = batch.sizes, batch.original_sizes
        return Answer(detections, batch.index, batch.mask, batch.mask.sum(), drawn, *sizes)

    return compiled_on(mesh, forward)


def compiled_on(
    mesh: Mesh | None, forward: Callable[[PyTree, Batch], Answer]
) -> Callable[[PyTree, Batch], Answer]:
    """`forward` as a compiled function of the batches that each process loads."""
    if mesh is None:
        return jax.jit(forward)
    # Masks are large: each process judges the rows that its own devices computed.
    rows, everywhere = batch_sharding(mesh), NamedSharding(mesh, PartitionSpec())
    shardings = Answer(*[rows] * len(Answer._fields))._replace(count=everywhere)
    compiled = jax.jit(forward, out_shardings=shardings)
    return lambda params, batch: compiled(params, global_batch(batch, mesh))


@dataclass(frozen=True)
class ToCanvas:
    """The transform that resizes as `predict.Detector` does."""

    short_side: int
    long_side: int
    limit: int

    def draw(self, size: Size, rng: np.random.Generator) -> tuple[Resize, ...]:
        new = resized_size(size, self.short_side, self.long_side, self.limit)
        return () if new == tuple(size) else (Resize(*new),)


@dataclass(frozen=True)
class First:
    """The first `count` images of a data set."""

    dataset: Any
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int):
        return self.dataset[index]

    def __getattr__(self, name: str):
        # Unpickling asks for attributes before there are any.
        if name == "dataset":
            raise AttributeError(name)
        return getattr(self.dataset, name)

    @cached_property
    def sizes(self) -> np.ndarray:
        return self.dataset.sizes[: self.count]

    @cached_property
    def image_ids(self) -> list:
        return list(self.dataset.image_ids[: self.count])

"""A model that is asked for the referring expression of each image."""

from collections.abc import Callable, Sequence

import jax
from flax import linen as nn
from jax.sharding import Mesh

from jaxseg.data.referring import CATEGORY
from jaxseg.errors import UserError
from jaxseg.eval.build import First, canvas_loader, compiled_on, share_of
from jaxseg.eval.referring import RANKS, referring_table
from jaxseg.eval.runner import Answer, Evaluator
from jaxseg.models.detr.heads import best_pairs
from jaxseg.ops.images import normalize
from jaxseg.predict.preprocess import Size, default_buckets
from jaxseg.pretrained import ImageConfig
from jaxseg.structures import Batch
from jaxseg.text.spans import LENGTH, encode_captions, prepare_caption
from jaxseg.text.wordpiece import WordPiece
from jaxseg.typing import PyTree

AT_ONCE = 1000  # captions that are measured at a time


def make_expression_evaluator(
    model: nn.Module,
    dataset,
    tokenizer: WordPiece,
    *,
    image: ImageConfig | None = None,
    batch_size: int = 1,
    buckets: Sequence[Size] | None = None,
    canvas: str = "exact",
    mesh: Mesh | None = None,
    limit: int | None = None,
    workers: int = 0,
    precision: str | None = None,
    progress: bool = True,
    length: int = LENGTH,
) -> Evaluator:
    """A function from parameters to the share of the expressions that a model finds.

    Each image's caption is its expression, and a query's score is that of its likeliest token.

    Args:
      model: that reads captions.
      dataset: with `captions`, as `data.referring` opens it.
      tokenizer: of the model's text encoder.
      length: tokens that the model reads at most.
      image, batch_size, buckets, canvas, mesh, limit, workers, precision, progress: of
        `build.make_evaluator`.

    Raises:
      UserError: an expression of too many tokens, or a batch that does not divide over the mesh.
    """
    captions = [prepare_caption(text) for text in dataset.captions]
    width = _width(captions, dataset.image_ids, tokenizer, length)
    if limit is not None:
        dataset = First(dataset, min(limit, len(dataset)))
    image = image or ImageConfig()
    buckets = buckets or default_buckets(image.short_side, image.long_side, model.stride)
    loader = canvas_loader(dataset, image, batch_size, buckets, mesh, workers)
    compiled = compiled_on(mesh, _forward(model.clone(canvas=canvas), image))

    def detect(params: PyTree, batch: Batch) -> Answer:
        own = [
            captions[i] if real else "." for i, real in zip(batch.index, batch.mask, strict=True)
        ]
        told = encode_captions(tokenizer, own, length, pad_to=width, strict=True)
        return compiled(params, batch.replace(captions=told))

    return Evaluator(
        detect=detect,
        batches=lambda: loader.iterate(0),
        image_ids=dataset.image_ids,
        category_ids=(CATEGORY["id"],),
        ground_truth=dataset.coco(),
        share=share_of(mesh),
        precision=precision,
        progress=progress,
        compare=referring_table,
    )


def _forward(model: nn.Module, image: ImageConfig) -> Callable[[PyTree, Batch], Answer]:
    def forward(params: PyTree, batch: Batch) -> Answer:
        images = normalize(batch.images, image.mean, image.std)
        output = model.apply({"params": params}, images, batch.captions, train=False)
        scores = jax.nn.sigmoid(output.logits[-1]).max(-1, keepdims=True)
        found = best_pairs(scores, output.boxes[-1], batch.original_sizes, max(RANKS))
        sizes = batch.sizes, batch.original_sizes
        return Answer(found, batch.index, batch.mask, batch.mask.sum(), None, *sizes)

    return forward


def _width(captions: Sequence[str], image_ids: Sequence, tokenizer: WordPiece, length: int) -> int:
    """Tokens that hold every caption: a power of two, or all that the model reads."""
    longest = 1
    for start in range(0, len(captions), AT_ONCE):
        some = captions[start : start + AT_ONCE]
        for i, count in enumerate(tokenizer(some).counts.tolist(), start):
            if count > length:
                raise UserError(
                    f"the expression of image {image_ids[i]!r} has {count} tokens and the model "
                    f"reads {length}: shorten {captions[i][:60]!r}..."
                )
            longest = max(longest, count)
    return min(length, 1 << (longest - 1).bit_length())

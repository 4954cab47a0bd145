"""What judges a model that is told what to look for: in training and by `jaxseg eval` alike."""

from collections.abc import Mapping

from flax import linen as nn

from jaxseg.data.captions import ask_classes
from jaxseg.data.dataset import Dataset
from jaxseg.errors import UserError
from jaxseg.eval.build import make_evaluator
from jaxseg.eval.expressions import make_expression_evaluator
from jaxseg.eval.lvis import is_lvis
from jaxseg.eval.runner import Evaluator
from jaxseg.text.spans import LENGTH
from jaxseg.text.wordpiece import WordPiece

# Of LVIS in one caption (github.com/open-mmlab/mmdetection, configs/mm_grounding_dino/lvis).
LVIS_NAMES = 40


def make_told_evaluator(
    model: nn.Module,
    dataset: Dataset,
    tokenizer: WordPiece,
    *,
    length: int = LENGTH,
    names_at_once: int | None = None,
    clean: bool = True,
    names: Mapping[str, str] | None = None,
    masks: bool = True,
    **options,
) -> Evaluator:
    """A model is asked for all classes of a data set, or for each image's referring expression.

    Args:
      model: that reads captions.
      tokenizer: of its text encoder.
      length: tokens of a caption at most.
      names_at_once: of the classes, in one caption; None: as many as it holds, of LVIS 40.
      clean: of `data.prompts.Prompts`.
      names: what to ask for instead of the names of some classes.
      masks, options: of `build.make_evaluator`.

    Raises:
      UserError: images with phrases of their own, names that are not the classes', or what the
        evaluators refuse.
    """
    if is_referring(dataset):
        return make_expression_evaluator(model, dataset, tokenizer, length=length, **options)
    check_judged(dataset)
    at_once = names_at_once or (LVIS_NAMES if is_lvis(dataset.coco()) else None)
    prompts, ids = ask_classes(
        dataset.classes, tokenizer, length, at_once=at_once, clean=clean, names=names
    )
    told = {"category_ids": ids, "prompts": prompts, "masks": masks}
    return make_evaluator(model, dataset, **told, **options)


def is_referring(dataset: Dataset) -> bool:
    """Whether each image has one expression, and the box that it means."""
    return hasattr(dataset, "captions")


def check_judged(dataset: Dataset) -> None:
    """Raise `UserError` if images have phrases, which are neither classes nor expressions."""
    if dataset.names_by_image and not is_referring(dataset):
        raise UserError(
            "the data set has phrases, each of one image alone, and an evaluation asks for the "
            "same classes in every image: take a data set with classes, or referring expressions "
            "(refcoco:FILE.json)"
        )

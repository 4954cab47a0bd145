"""What `jaxseg eval` runs: weights and a data set as an evaluator.

A detector's own classes are matched with the data set's by name. A model that reads captions is
told all of the data set's classes, or, of referring expressions, each image's own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxseg.errors import UserError
from jaxseg.eval.build import make_evaluator
from jaxseg.eval.categories import match_categories
from jaxseg.eval.runner import Evaluator
from jaxseg.eval.told import check_judged, is_referring, make_told_evaluator
from jaxseg.params import reads_captions
from jaxseg.pretrained import Pretrained
from jaxseg.text.spans import LENGTH
from jaxseg.text.wordpiece import WordPiece


@dataclass(frozen=True)
class Prepared:
    """Weights that are ready to be judged.

    Attributes:
      name: of the weights, for messages.
      weights: a detector's.
      tokenizer: of a model that reads captions; None of others.
      names_at_once: of `told.make_told_evaluator`.
      options: of `build.make_evaluator`, without `masks`.
      masks: whether masks are judged.
    """

    name: str
    weights: Pretrained
    tokenizer: WordPiece | None
    names_at_once: int | None
    options: Mapping[str, Any]
    masks: bool = True

    def evaluator(self, dataset, names: Mapping[str, str] | None = None) -> Evaluator:
        """What judges these weights on a data set.

        Args:
          dataset: of `jaxseg.data.open_dataset`.
          names: what to ask for instead of the names of some classes.

        Raises:
          UserError: weights and data set do not go together, or the names are not its classes'.
        """
        model, common = self.weights.model, {"image": self.weights.image, **self.options}
        if self.tokenizer is None:
            ids = self._matched(dataset)
            return make_evaluator(model, dataset, category_ids=ids, masks=self.masks, **common)
        return make_told_evaluator(
            model,
            dataset,
            self.tokenizer,
            length=self.weights.text_length or LENGTH,
            names_at_once=self.names_at_once,
            names=names,
            masks=self.masks,
            **common,
        )

    def _matched(self, dataset) -> tuple[int | None, ...]:
        check_judged(dataset)
        if is_referring(dataset):
            raise UserError(
                f"referring expressions need weights that read captions; {self.name} are a "
                f"{type(self.weights.model).__name__}'s: take those of a Grounding DINO"
            )
        annotated = {annotation["category_id"] for annotation in dataset.coco()["annotations"]}
        known = (self.weights.classes, self.weights.model.num_classes)
        return match_categories(*known, dataset.classes, annotated)


def prepare(
    name: str,
    weights: Pretrained,
    *,
    vocabulary: str | Path | None = None,
    names_at_once: int | None = None,
    masks: bool = True,
    **options,
) -> Prepared:
    """Weights with what their model is told by.

    Args:
      name: of the weights, for messages.
      vocabulary: of `Pretrained.tokenizer`.
      names_at_once, masks, options: of `Prepared`.

    Raises:
      UserError: no detector's weights, words for a model that reads none, no vocabulary, or one of
        another model.
    """
    model = weights.model
    if not hasattr(model, "detections"):
        raise UserError(
            f"{name} are a {type(model).__name__}'s, which finds no objects by itself: boxes and "
            "classes need a detector's weights"
        )
    given = {"--vocab": vocabulary, "--names-at-once": names_at_once}
    if not reads_captions(model):
        if unused := [option for option, value in given.items() if value is not None]:
            raise UserError(
                f"{unused[0]} is of weights that read captions; {name} are a "
                f"{type(model).__name__}'s, which has its own classes: leave it out"
            )
        return Prepared(name, weights, None, None, options, masks)
    tokenizer = weights.tokenizer(vocabulary)
    known = getattr(getattr(model, "bert", None), "vocabulary", tokenizer.length)
    if tokenizer.length > known:
        raise UserError(
            f"the vocabulary has {tokenizer.length} pieces and {name} know {known}: give the one "
            "that they were trained with (--vocab)"
        )
    return Prepared(name, weights, tokenizer, names_at_once, options, masks)

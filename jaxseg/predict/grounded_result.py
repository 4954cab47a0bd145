"""What Grounding DINO found, in the user's terms."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from jaxseg.predict.phrases import Pass, Wanted
from jaxseg.predict.preprocess import Size
from jaxseg.predict.result import Prediction, warn_not_finite
from jaxseg.text.spans import phrase_of
from jaxseg.text.wordpiece import WordPiece


@dataclass(frozen=True)
class GroundedPrediction(Prediction):
    """The objects of one image that were looked for, the surest first (n of them).

    Attributes:
      names: the phrase that each object is likest, and `labels` its place among `phrases`.
      scores: the probability of the likeliest token.
      phrases: what was looked for (k of them).
      phrase_scores: float32 (n, k), the mean probability of each phrase's tokens; 0 for phrases
        that were looked for in another pass, and for a name that is one before it.
      text_labels: the words above the text threshold, wherever they stand in the caption, as the
        original's demo joins them.
    """

    phrases: tuple[str, ...] = ()
    phrase_scores: np.ndarray | None = None
    text_labels: tuple[str, ...] = ()

    def take(self, rows: np.ndarray) -> "GroundedPrediction":
        """Some of the objects, by their places."""
        return replace(
            self,
            boxes=self.boxes[rows],
            scores=self.scores[rows],
            labels=self.labels[rows],
            names=tuple(self.names[i] for i in rows),
            masks=None if self.masks is None else self.masks[rows],
            phrase_scores=self.phrase_scores[rows],
            text_labels=tuple(self.text_labels[i] for i in rows),
        )

    def to_dict(self) -> dict[str, Any]:
        """`Prediction.to_dict` with the words of each object under "text"."""
        record = super().to_dict()
        for found, words in zip(record["objects"], self.text_labels, strict=True):
            found["text"] = words
        return record


class Row(NamedTuple):
    """What the model says of one image and one caption: (q, s) and (q, 4)."""

    probabilities: np.ndarray
    boxes: np.ndarray


class Finder(NamedTuple):
    """Turns what the model says into predictions."""

    tokenizer: WordPiece
    box_threshold: float
    text_threshold: float
    remove_combined: bool

    def predict(self, wanted: Wanted, rows: Sequence[Row], size: Size) -> GroundedPrediction:
        """The objects of all passes of what was wanted of an image of `size`."""
        parts = [
            self._one(one, row, len(wanted.phrases))
            for one, row in zip(wanted.passes, rows, strict=True)
        ]
        boxes, scores, labels, phrase_scores, words = (
            np.concatenate(x) for x in zip(*parts, strict=True)
        )
        order = np.argsort(-scores, kind="stable")
        labels = labels[order].astype(np.int32)
        return GroundedPrediction(
            boxes=boxes[order],
            scores=scores[order],
            labels=labels,
            names=tuple(wanted.phrases[label] for label in labels),
            size=size,
            phrases=wanted.phrases,
            phrase_scores=phrase_scores[order],
            text_labels=tuple(str(words[i]) for i in order),
        )

    def _one(self, one: Pass, row: Row, phrases: int):
        """Boxes, scores, labels, scores of all phrases, and words, of queries that are kept."""
        finite = np.isfinite(row.boxes).all(-1) & np.isfinite(row.probabilities).all(-1)
        warn_not_finite(finite)
        kept = np.flatnonzero(finite)
        kept = kept[row.probabilities[kept].max(-1) > self.box_threshold]
        probabilities = row.probabilities[kept]
        own = probabilities @ one.tokens.T.astype(np.float32) / one.tokens.sum(-1)
        scores = np.zeros((len(kept), phrases), np.float32)
        scores[:, one.labels] = own
        words = [
            phrase_of(
                self.tokenizer,
                one.ids,
                some,
                self.text_threshold,
                remove_combined=self.remove_combined,
            )
            for some in probabilities
        ]
        labels = one.labels[own.argmax(-1)]
        return row.boxes[kept], probabilities.max(-1), labels, scores, np.asarray(words, object)

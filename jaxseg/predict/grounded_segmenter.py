"""Grounded-SAM: words to boxes by Grounding DINO, boxes to masks by Segment Anything."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.errors import require_share
from jaxseg.ops.nms import nms
from jaxseg.predict.grounded import BOX, WORDS, GroundedDetector, GroundedPrediction
from jaxseg.predict.phrases import Text
from jaxseg.predict.preprocess import ImageSource, Prepared, load_image
from jaxseg.predict.prompts import Prompt
from jaxseg.predict.result import warn_not_finite
from jaxseg.predict.sam_predictor import SamPredictor

BOXES = 64  # of an image in one call of the decoder


class Both(NamedTuple):
    """An image as each of the two models sees it."""

    detector: Prepared
    predictor: Prepared


class GroundedSegmenter:
    """Find what words say, and draw it.

        segmenter = GroundedSegmenter.from_pretrained(
            "IDEA-Research/grounding-dino-tiny", "facebook/sam-vit-base"
        )
        found = segmenter("street.jpg", "a red car. traffic light.")
        found.masks        # bool (n, h, w)

    Attributes:
      detector, predictor: the two models.
      nms_iou: of two boxes that overlap by more the less sure one goes before masks are drawn,
        whatever they are called; None keeps all, as the original's demo does.
    """

    classes = None  # what is found is named by words alone

    def __init__(
        self,
        detector: GroundedDetector,
        predictor: SamPredictor,
        *,
        nms_iou: float | None = None,
    ):
        """Wrap two models.

        Raises:
          UserError: `nms_iou` is no number from 0 to 1.
        """
        if nms_iou is not None:
            require_share("nms_iou", nms_iou)
        self.detector = detector
        self.predictor = predictor
        self.nms_iou = nms_iou
        self.batch_size = detector.batch_size
        self._suppress = jax.jit(nms, static_argnames="threshold")

    @classmethod
    def from_pretrained(
        cls,
        detector: str | PathLike,
        predictor: str | PathLike,
        *,
        vocabulary: str | Path | None = None,
        nms_iou: float | None = None,
        **options,
    ) -> "GroundedSegmenter":
        """Load the weights of both.

        Args:
          detector, predictor: of a Grounding DINO and of a Segment Anything, in any form of
            `jaxseg.checkpoints.from_pretrained`.
          vocabulary, options: of `GroundedDetector.from_pretrained`.

        Raises:
          UserError: there are no such weights, or they are other models'.
        """
        words = GroundedDetector.from_pretrained(detector, vocabulary=vocabulary, **options)
        return cls(words, SamPredictor.from_pretrained(predictor), nms_iou=nms_iou)

    def __call__(
        self,
        images: ImageSource | Sequence[ImageSource],
        text: Text,
        box_threshold: float = BOX,
        text_threshold: float = WORDS,
    ) -> GroundedPrediction | list[GroundedPrediction]:
        """As `GroundedDetector`, with masks."""
        if not isinstance(images, list | tuple):
            return self([images], text, box_threshold, text_threshold)[0]
        return list(self.detect(map(self.prepare, images), text, box_threshold, text_threshold))

    def prepare(self, image: ImageSource) -> Both:
        """Read an image once, and resize it for both.

        Raises:
          UserError: the image cannot be read, or is too narrow.
        """
        pixels = load_image(image)
        return Both(self.detector.prepare(pixels), self.predictor.prepare(pixels))

    def detect(
        self,
        prepared: Iterable[Both],
        text: Text,
        box_threshold: float = BOX,
        text_threshold: float = WORDS,
    ) -> list[GroundedPrediction]:
        """As the call, for images that `prepare` made; a few at a time are held."""
        found, prepared = [], iter(prepared)
        # Enough images at a time to fill batches of several canvas sizes.
        while images := list(islice(prepared, 4 * self.batch_size)):
            some = self.detector.detect(
                [image.detector for image in images], text, box_threshold, text_threshold
            )
            found += self._draw(images, [self._distinct(one) for one in some])
        return found

    def _distinct(self, found: GroundedPrediction) -> GroundedPrediction:
        if self.nms_iou is None or not len(found):
            return found
        # Filled up to a power of two, so that few programs are compiled.
        rest = (1 << (len(found) - 1).bit_length()) - len(found)
        boxes = np.pad(found.boxes, ((0, rest), (0, 0)))
        scores = np.pad(found.scores, (0, rest), constant_values=-np.inf)
        keep = self._suppress(jnp.asarray(boxes), jnp.asarray(scores), threshold=self.nms_iou)
        return found.take(np.flatnonzero(keep))

    def _draw(
        self, images: Sequence[Both], found: Sequence[GroundedPrediction]
    ) -> Iterator[GroundedPrediction]:
        """Each prediction with its masks, a batch of images at a time."""
        for start in range(0, len(images), self.batch_size):
            some = images[start : start + self.batch_size]
            masks = self._masks([image.predictor for image in some], found[start:][: len(some)])
            for one, drawn in zip(found[start:], masks, strict=False):
                yield replace(one, masks=drawn)

    def _masks(
        self, prepared: list[Prepared], found: Sequence[GroundedPrediction]
    ) -> list[np.ndarray]:
        masks = [np.zeros((len(one), *one.size), bool) for one in found]
        # What lies beyond the image has no pixel to draw. The others are prompted as they are,
        # as the original does it.
        clipped = [one.clipped() for one in found]
        places = [np.flatnonzero((b[:, 2:] > b[:, :2]).all(-1)) for b in clipped]
        if not any(map(len, places)):
            return masks
        # Rows that fill up a batch repeat an image, so that one program serves all.
        filled = prepared + prepared[-1:] * (self.batch_size - len(prepared))
        embedded = self.predictor.embed(filled)
        for start in range(0, max(map(len, places)), BOXES):
            parts = [place[start : start + BOXES] for place in places]
            sets = [
                [Prompt(box=box) for box in one.boxes[part]]
                for one, part in zip(found, parts, strict=True)
            ]
            sets += [[] for _ in range(len(filled) - len(prepared))]
            answers = self.predictor.segment(embedded, sets, multimask_output=False)
            for drawn, part, several in zip(masks, parts, answers, strict=False):
                warn_not_finite(np.isfinite([answer.iou[0] for answer in several]))
                for place, answer in zip(part, several, strict=True):
                    drawn[place] = answer.masks[0]
        return masks

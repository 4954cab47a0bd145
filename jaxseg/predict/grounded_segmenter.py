"""Grounded-SAM: words to boxes by Grounding DINO, boxes to masks by Segment Anything."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxseg.predict.grounded import BOX, WORDS, GroundedDetector
from jaxseg.predict.grounded_result import GroundedPrediction
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
      detector, predictor: the two models. Of boxes that overlap by more than the detector's
        `nms_iou` only the surest is drawn.
    """

    classes = None  # what is found is named by words alone

    def __init__(self, detector: GroundedDetector, predictor: SamPredictor):
        self.detector = detector
        self.predictor = predictor
        self.batch_size = detector.batch_size

    @classmethod
    def from_pretrained(
        cls,
        detector: str | PathLike,
        predictor: str | PathLike,
        *,
        vocabulary: str | Path | None = None,
        **options,
    ) -> "GroundedSegmenter":
        """Load the weights of both.

        Args:
          detector, predictor: of a Grounding DINO and of a Segment Anything, in any form of
            `jaxseg.checkpoints.from_pretrained`.
          vocabulary, options: of `GroundedDetector.from_pretrained`, `nms_iou` among them.

        Raises:
          UserError: there are no such weights, or they are other models'.
        """
        words = GroundedDetector.from_pretrained(detector, vocabulary=vocabulary, **options)
        return cls(words, SamPredictor.from_pretrained(predictor))

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
            found += self._draw(images, some)
        return found

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

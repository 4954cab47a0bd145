"""Grounding DINO for users: any images and any words in, named boxes out."""

from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.checkpoints import from_pretrained
from jaxseg.errors import UserError, require_share
from jaxseg.models.grounding_dino import GroundingDino
from jaxseg.ops.boxes import cxcywh_to_xyxy, scale_boxes
from jaxseg.ops.images import normalize
from jaxseg.ops.nms import nms
from jaxseg.predict.batches import Batches, Group, power_of_two
from jaxseg.predict.grounded_result import Finder, GroundedPrediction, Row
from jaxseg.predict.phrases import Pass, Text, Wanted, plan
from jaxseg.predict.preprocess import ImageSource, Prepared, Size
from jaxseg.pretrained import ImageConfig
from jaxseg.structures import Captions, Images
from jaxseg.text.spans import LENGTH, encode_captions
from jaxseg.text.wordpiece import WordPiece
from jaxseg.typing import Array, Int, PyTree

BOX, WORDS = 0.35, 0.25  # default thresholds, those of the original
SHORTEST = 16  # tokens that captions are filled up to, or the next power of two
PAIRS = 8  # of image and caption in one call of the model


class GroundedDetector(Batches):
    """Find what words say in files, PIL images and arrays of any size.

        detector = GroundedDetector.from_pretrained("IDEA-Research/grounding-dino-tiny")
        found = detector("street.jpg", "a red car. traffic light.")
        found = detector(["a.jpg", "b.jpg"], ["person", "bicycle", "stop sign"])

    Images lie on canvases of a few sizes and captions are filled up to a few lengths, so that few
    programs are compiled; an answer depends neither on its canvas nor on the other images and
    texts of a call. What one text names is looked for together, as the model reads it: its phrases
    meet in fusion and in the choice of queries.

    Attributes:
      model: with `canvas="exact"`.
      tokenizer: of its text encoder.
      length: tokens that it reads at a time.
      nms_iou: of two boxes of an answer that overlap by more the less sure one goes, whatever they
        are called; None keeps all, as the original's demo does.
      image, buckets, batch_size: of `Batches`.
    """

    def __init__(
        self,
        model: GroundingDino,
        params: PyTree,
        tokenizer: WordPiece,
        image: ImageConfig | None = None,
        *,
        batch_size: int = 1,
        buckets: Sequence[Size] | None = None,
        length: int = LENGTH,
        nms_iou: float | None = None,
        precision: str = "highest",
    ):
        """Wrap a model.

        Args:
          model, params: a Grounding DINO and its parameters.
          tokenizer: see `Pretrained.tokenizer`.
          image, batch_size, buckets: of `Batches`.
          length, nms_iou: see the attributes.
          precision: of matrix products (`jax.default_matmul_precision`).

        Raises:
          UserError: no Grounding DINO, a tokeniser of more words than it knows, an `nms_iou` that
            is no number from 0 to 1, or what `Batches` refuses.
        """
        _require_words(model)
        if tokenizer.length > model.bert.vocabulary:
            raise UserError(
                f"the vocabulary has {tokenizer.length} pieces and the model knows "
                f"{model.bert.vocabulary}: give the one that it was trained with"
            )
        if nms_iou is not None:
            require_share("nms_iou", nms_iou)
        super().__init__(model.stride, image, batch_size, buckets)
        self.model = model.clone(canvas="exact")
        self.params = jax.device_put(params)
        self.tokenizer = tokenizer
        self.length = length
        self.nms_iou = nms_iou
        self._precision = precision
        self._answer = jax.jit(self.forward)
        self._suppress = jax.jit(nms, static_argnames="threshold")

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | PathLike,
        *,
        vocabulary: str | Path | None = None,
        model: str | None = None,
        revision: str | None = None,
        local_files_only: bool | None = None,
        **options,
    ) -> "GroundedDetector":
        """Load a folder of weights, an official file or a Hugging Face id.

        Args:
          vocabulary: of `Pretrained.tokenizer`; official files hold none.
          name_or_path, model, revision, local_files_only: as in
            `jaxseg.checkpoints.from_pretrained`.
          options: of the constructor; `length` is by default that of the weights' training.

        Raises:
          UserError: there are no such weights, they are no Grounding DINO's, or there is no
            vocabulary.
        """
        weights = from_pretrained(
            name_or_path, model=model, revision=revision, local_files_only=local_files_only
        )
        _require_words(weights.model)
        tokenizer = weights.tokenizer(vocabulary)
        options.setdefault("length", weights.text_length or LENGTH)
        return cls(weights.model, weights.params, tokenizer, weights.image, **options)

    def __call__(
        self,
        images: ImageSource | Sequence[ImageSource],
        text: Text,
        box_threshold: float = BOX,
        text_threshold: float = WORDS,
        *,
        remove_combined: bool = False,
    ) -> GroundedPrediction | list[GroundedPrediction]:
        """Find what a text names, in one image or in each of a list.

        Args:
          images: a path, PIL image or array (see `preprocess.load_image`), or a list of them.
          text: a caption ("cat. dog.") or a list of names; see `phrases.plan`.
          box_threshold: objects whose likeliest token lies above it are kept.
          text_threshold: tokens above it are an object's `text_labels`.
          remove_combined: those only of the phrase of the likeliest token.

        Returns:
          One prediction for one image; for a list a list in its order.

        Raises:
          UserError: an image cannot be read, the text names nothing, or a threshold is no number
            from 0 to 1.
        """
        thresholds = (box_threshold, text_threshold)
        if not isinstance(images, list | tuple):
            return self([images], text, *thresholds, remove_combined=remove_combined)[0]
        prepared = map(self.prepare, images)
        return self.detect(prepared, text, *thresholds, remove_combined=remove_combined)

    def detect(
        self,
        prepared: Iterable[Prepared],
        text: Text,
        box_threshold: float = BOX,
        text_threshold: float = WORDS,
        *,
        remove_combined: bool = False,
    ) -> list[GroundedPrediction]:
        """As the call, for images that `prepare` made; a few at a time are held."""
        finder = self._finder(box_threshold, text_threshold, remove_combined)
        wanted = plan(text, self.tokenizer, self.length)
        return [found[0] for found in self._find(prepared, lambda position: [wanted], finder)]

    def grid(
        self,
        images: Sequence[ImageSource],
        texts: Sequence[Text],
        box_threshold: float = BOX,
        text_threshold: float = WORDS,
    ) -> list[list[GroundedPrediction]]:
        """Find what each of several texts names in each of several images.

        Returns:
          For each image a prediction for each text. An image is seen and a text read once in a
          call of the model, however many they are paired with.
        """
        finder = self._finder(box_threshold, text_threshold, False)
        wanted = [plan(text, self.tokenizer, self.length) for text in texts]
        return self._find(map(self.prepare, images), lambda position: wanted, finder)

    def each(
        self,
        images: Sequence[ImageSource],
        texts: Sequence[Text],
        box_threshold: float = BOX,
        text_threshold: float = WORDS,
    ) -> list[GroundedPrediction]:
        """Find in each image what its own text names.

        Raises:
          UserError: not one text for each image.
        """
        if len(images) != len(texts):
            raise UserError(f"every image needs a text; got {len(images)} and {len(texts)}")
        finder = self._finder(box_threshold, text_threshold, False)
        wanted = [plan(text, self.tokenizer, self.length) for text in texts]
        prepared = map(self.prepare, images)
        found = self._find(prepared, lambda position: [wanted[position]], finder)
        return [one[0] for one in found]

    def _finder(self, box: float, words: float, remove_combined: bool) -> "Finder":
        require_share("box_threshold", box)
        require_share("text_threshold", words)
        return Finder(self.tokenizer, box, words, remove_combined)

    def _find(self, prepared, wanted_of, finder: "Finder") -> list[list[GroundedPrediction]]:
        """For each image what is found of each thing wanted of it, in order."""
        found: dict[int, list[GroundedPrediction]] = {}
        for bucket, group in self.groups(prepared):
            wanted = [wanted_of(position) for position, _ in group]
            rows = self._rows(group, bucket, wanted)
            for (position, image), several in zip(group, wanted, strict=True):
                predicted = [
                    finder.predict(one, [next(rows) for _ in one.passes], image.size)
                    for one in several
                ]
                found[position] = [self._distinct(one) for one in predicted]
        return [found[position] for position in range(len(found))]

    def _distinct(self, found: GroundedPrediction) -> GroundedPrediction:
        if self.nms_iou is None or not len(found):
            return found
        rest = power_of_two(len(found)) - len(found)
        boxes = np.pad(found.boxes, ((0, rest), (0, 0)))
        scores = np.pad(found.scores, (0, rest), constant_values=-np.inf)
        keep = self._suppress(boxes, scores, threshold=self.nms_iou)
        return found.take(np.flatnonzero(keep))

    def _rows(self, group: Group, bucket: Size, wanted: list[list[Wanted]]):
        """What the model says of each pass of everything that is wanted, in order."""
        pairs = [
            (image, one)
            for image, several in enumerate(wanted)
            for thing in several
            for one in thing.passes
        ]
        canvases, sizes = self.on_canvas(group, bucket)
        most = max(PAIRS, self.batch_size)
        for start in range(0, len(pairs), most):
            some = pairs[start : start + most]
            captions, index = self._captions([one for _, one in some])
            numbers = np.asarray([image for image, _ in some])
            full = np.stack([numbers, index], -1).astype(np.int32)
            # As many as images where each has one text, however many images there are.
            count = self.batch_size if len(full) <= self.batch_size else power_of_two(len(full))
            full = np.concatenate([full, full[-1:].repeat(count - len(full), 0)])
            with jax.default_matmul_precision(self._precision):
                answer = jax.device_get(self._answer(self.params, canvases, sizes, captions, full))
            for row, (_, one) in enumerate(some):
                yield Row(answer.probabilities[row, :, : len(one.ids)], answer.boxes[row])

    def _captions(self, passes: Sequence[Pass]) -> tuple[Captions, np.ndarray]:
        """Each caption once, filled up to a power of two of them, and which one each pass has."""
        texts = list(dict.fromkeys(one.caption for one in passes))
        index = np.asarray([texts.index(one.caption) for one in passes])
        longest = max(len(one.ids) for one in passes)
        texts += texts[-1:] * (power_of_two(len(texts)) - len(texts))
        pad_to = max(SHORTEST, power_of_two(longest))
        return encode_captions(self.tokenizer, texts, self.length, pad_to), index

    def forward(
        self,
        params: PyTree,
        images: Images,
        sizes: Int[Array, "b 2"],
        captions: Captions,
        pairs: Int[Array, "p 2"],
    ) -> Row:
        """What is compiled for each canvas: a pure function, for `jax.jit` and its like.

        Args:
          images: uint8 on canvases.
          sizes: (h, w) of the original images.
          captions: of `encode_captions`.
          pairs: (image, caption) of each row of the answer.

        Returns:
          Probabilities of each query's tokens (p, q, s), and its boxes (p, q, 4), xyxy in pixels.
        """
        images, captions = jax.tree.map(jnp.asarray, (images, captions))
        images = normalize(images, self.image.mean, self.image.std)
        pairs = jnp.asarray(pairs)
        output = self.model.apply({"params": params}, images, captions, pairs=pairs)
        logits, boxes = output.logits[-1], cxcywh_to_xyxy(output.boxes[-1].astype(jnp.float32))
        return Row(jax.nn.sigmoid(logits), scale_boxes(boxes, jnp.asarray(sizes)[pairs[:, 0]]))


def _require_words(model) -> None:
    if not isinstance(model, GroundingDino):
        raise UserError(
            f"words need a Grounding DINO; got a {type(model).__name__}: take "
            "grounding_dino.swin_t, for example, or predict.Detector for other detectors"
        )

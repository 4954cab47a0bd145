"""CLIP for users: images and words as points of one space, and how near they are."""

from collections.abc import Callable, Sequence
from functools import partial
from os import PathLike
from pathlib import Path

import jax
import numpy as np

from jaxseg.checkpoints import from_pretrained
from jaxseg.errors import UserError
from jaxseg.models.clip import Clip
from jaxseg.models.clip.clip import unit
from jaxseg.predict.batches import power_of_two
from jaxseg.predict.clip_image import MEAN, STD, clip_pixels
from jaxseg.predict.preprocess import ImageSource
from jaxseg.pretrained import ImageConfig
from jaxseg.text.bpe import BytePairs
from jaxseg.typing import Array, Float, Int, PyTree


class ClipEncoder:
    """Compare images with texts by the cosine of their features.

        encoder = ClipEncoder.from_pretrained(
            "weights/clip", vocabulary="bpe_simple_vocab_16e6.txt.gz"
        )
        features = encoder.images(["cat.jpg", "street.png"])          # (2, e), of length one
        likely = encoder.classify("cat.jpg", ["a photo of a cat", "a photo of a dog"])    # (1, 2)

    Batches are filled up to powers of two, so that few programs are compiled.

    Attributes:
      model: a CLIP.
      tokenizer: of its texts.
      mean, std: of its images.
      batch_size: images or texts of one call of the model at most.
    """

    def __init__(
        self,
        model: Clip,
        params: PyTree,
        tokenizer: BytePairs,
        image: ImageConfig | None = None,
        *,
        batch_size: int = 32,
        precision: str = "highest",
    ):
        """Wrap a model.

        Args:
          model, params: a CLIP and its parameters.
          tokenizer: see `Pretrained.tokenizer`.
          image: mean and standard deviation of its images; None is the original's.
          batch_size: see the attributes.
          precision: of matrix products (`jax.default_matmul_precision`).

        Raises:
          UserError: no CLIP, a tokeniser of more tokens than it knows, or a batch size below 1.
        """
        _require_clip(model)
        if len(tokenizer.ids) > model.text.vocabulary:
            raise UserError(
                f"the vocabulary has {len(tokenizer.ids)} tokens and the model knows "
                f"{model.text.vocabulary}: give the one that it was trained with"
            )
        if batch_size < 1:
            raise UserError(f"batch_size must be 1 or more; got {batch_size}")
        self.model = model
        self.params = jax.device_put(params)
        self.tokenizer = tokenizer
        self.mean, self.std = (MEAN, STD) if image is None else (image.mean, image.std)
        self.batch_size = batch_size
        self._precision = precision
        self._of_images = jax.jit(self.image_features)
        self._of_texts = jax.jit(self.text_features)

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
    ) -> "ClipEncoder":
        """Load a folder of weights, an official file or a Hugging Face id.

        Args:
          vocabulary: of `Pretrained.tokenizer`, whatever `BytePairs` reads; official files hold
            none.
          name_or_path, model, revision, local_files_only: as in
            `jaxseg.checkpoints.from_pretrained`.
          options: of the constructor.

        Raises:
          UserError: there are no such weights, they are no CLIP's, or there is no vocabulary.
        """
        weights = from_pretrained(
            name_or_path, model=model, revision=revision, local_files_only=local_files_only
        )
        _require_clip(weights.model)
        tokenizer = weights.tokenizer(vocabulary)
        return cls(weights.model, weights.params, tokenizer, weights.image, **options)

    def images(self, images: ImageSource | Sequence[ImageSource]) -> Float[np.ndarray, "b e"]:
        """Features of images, of length one.

        Args:
          images: paths, PIL images or arrays (see `preprocess.load_image`); one is a list of one.
            The square in the middle is seen.

        Raises:
          UserError: an image cannot be read.
        """
        images = list(images) if isinstance(images, list | tuple) else [images]
        pixels = partial(clip_pixels, size=self.model.canvas_size, mean=self.mean, std=self.std)
        return self._encode(self._of_images, images, pixels)

    def texts(
        self, texts: str | Sequence[str], *, truncate: bool = False
    ) -> Float[np.ndarray, "m e"]:
        """Features of texts, of length one.

        Args:
          texts: one is a list of one.
          truncate: cut what is longer than the model reads.

        Raises:
          UserError: a text that is too long.
        """
        ids = self.tokenizer(texts, self.model.text.context, truncate)
        return self._encode(self._of_texts, ids, np.asarray)

    def scores(
        self, images: ImageSource | Sequence[ImageSource], texts: str | Sequence[str]
    ) -> Float[np.ndarray, "b m"]:
        """The cosine of each image's features with each text's, from -1 to 1."""
        return self.images(images) @ self.texts(texts).T

    def classify(
        self, images: ImageSource | Sequence[ImageSource], texts: str | Sequence[str]
    ) -> Float[np.ndarray, "b m"]:
        """How likely each text is to be that of an image, if one of them is: rows add up to 1.

        Raises:
          UserError: there are no texts, one is too long, or an image cannot be read.
        """
        if not isinstance(texts, str) and not len(texts):
            raise UserError("an image is of one of several texts; got none")
        temperature = np.exp(np.asarray(self.params["logit_scale"], np.float32))
        logits = temperature * self.scores(images, texts)
        shares = np.exp(logits - logits.max(-1, keepdims=True))
        return shares / shares.sum(-1, keepdims=True)

    def image_features(
        self, params: PyTree, pixels: Float[Array, "b h w 3"]
    ) -> Float[Array, "b e"]:
        """What is compiled for images: a pure function, of the pixels of `clip_pixels`."""
        found = self.model.apply({"params": params}, pixels, method="encode_image")
        return unit(found.features)

    def text_features(self, params: PyTree, ids: Int[Array, "m s"]) -> Float[Array, "m e"]:
        """What is compiled for texts: a pure function, of the ids of `BytePairs`."""
        return unit(self.model.apply({"params": params}, ids, method="encode_text").features)

    def _encode(self, features: Callable, things: Sequence, arrays: Callable) -> np.ndarray:
        """Features of things, which `arrays` makes inputs of a batch at a time."""
        found = [np.zeros((0, self.model.text.features), np.float32)]
        for start in range(0, len(things), self.batch_size):
            some = arrays(things[start : start + self.batch_size])
            count = min(self.batch_size, power_of_two(len(some)))
            filled = np.concatenate([some, some[-1:].repeat(count - len(some), 0)])
            with jax.default_matmul_precision(self._precision):
                found.append(np.asarray(features(self.params, filled))[: len(some)])
        return np.concatenate(found)


def _require_clip(model) -> None:
    if not isinstance(model, Clip):
        raise UserError(
            f"images and texts are compared by a CLIP; got a {type(model).__name__}: take "
            "clip.vit_b32, for example"
        )

"""Segment Anything with the habits of the original's predictor: set an image, then prompt."""

from collections.abc import Sequence
from os import PathLike
from typing import NamedTuple

import jax
import numpy as np

from jaxseg.checkpoints import from_pretrained
from jaxseg.errors import UserError
from jaxseg.models.sam import Sam
from jaxseg.ops.images import normalize
from jaxseg.predict.canvas import Canvas
from jaxseg.predict.preprocess import ImageSource, Prepared, Size, load_image
from jaxseg.predict.prompts import Prompt, pad_prompts
from jaxseg.pretrained import ImageConfig
from jaxseg.structures import Images
from jaxseg.typing import Array, Float, PyTree

THRESHOLD = 0.0  # of masks' logits


class Embedded(NamedTuple):
    """Images as the decoder reads them, as often as it likes.

    Attributes:
      maps: (b, h, w, d), on the device.
      sizes: (h, w) of each original image.
    """

    maps: Float[Array, "b h w d"]
    sizes: tuple[Size, ...]

    def __len__(self) -> int:
        return len(self.sizes)


class Segmented(NamedTuple):
    """The answer to one prompt, of m masks.

    Attributes:
      masks: (m, h, w) of the original image's size; bool, or float32 logits.
      iou: (m,), how good the model takes each to be.
      low_res: (m, 256, 256) logits, to be given back as a prompt.
    """

    masks: np.ndarray
    iou: np.ndarray
    low_res: np.ndarray


class SamPredictor:
    """Segment what prompts mean, in files, PIL images and arrays of any size.

        predictor = SamPredictor.from_pretrained("facebook/sam-vit-base")
        predictor.set_image("truck.jpg")
        masks, iou, low_res = predictor.predict([[500, 375]], [1])

    An image is encoded once. Prompts of any number are filled up to powers of two, so that few
    programs are compiled; an answer does not depend on what it is asked beside.

    Attributes:
      model, params: a `Sam` and its parameters.
      image: mean and standard deviation of images.
      canvas: the square that images lie on.
    """

    def __init__(
        self,
        model: Sam,
        params: PyTree,
        image: ImageConfig | None = None,
        *,
        precision: str = "highest",
    ):
        """Wrap a model.

        Args:
          image: mean and standard deviation of its images; None is the original's.
          precision: of matrix products (`jax.default_matmul_precision`).

        Raises:
          UserError: the model is no `Sam`.
        """
        if not isinstance(model, Sam):
            raise UserError(
                f"prompts need a Segment Anything model; got a {type(model).__name__}: take "
                "sam.vit_b, for example, or predict.Detector for a detector"
            )
        self.model = model
        self.params = jax.device_put(params)
        self.canvas = Canvas(model.canvas_size, model.mask_size)
        self.image = image or ImageConfig()
        self._precision = precision
        self._set: Embedded | None = None
        self._encode = jax.jit(self.encode_canvases)
        self._decode = jax.jit(self._decode_prompts, static_argnames="multimask")

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | PathLike,
        *,
        model: str | None = None,
        revision: str | None = None,
        local_files_only: bool | None = None,
        **options,
    ) -> "SamPredictor":
        """Load a folder of weights, an official file or a Hugging Face id.

        Args:
          name_or_path, model, revision, local_files_only: as in
            `jaxseg.checkpoints.from_pretrained`.
          options: of the constructor.

        Raises:
          UserError: there are no such weights, or they are no Segment Anything's.
        """
        weights = from_pretrained(
            name_or_path, model=model, revision=revision, local_files_only=local_files_only
        )
        return cls(weights.model, weights.params, weights.image, **options)

    def set_image(self, image: ImageSource, image_format: str = "RGB") -> None:
        """Encode an image for the prompts that follow; if it cannot be, none is set.

        Args:
          image: see `preprocess.load_image`.
          image_format: "BGR" for arrays whose channels are the other way round.

        Raises:
          UserError: the image cannot be read, or the format is neither, or not an array's.
        """
        self.reset_image()
        if image_format not in ("RGB", "BGR"):
            raise UserError(f"image_format must be 'RGB' or 'BGR'; got {image_format!r}")
        if image_format == "BGR" and not isinstance(image, np.ndarray):
            raise UserError(
                f"image_format 'BGR' is for arrays; a {type(image).__name__} is read as RGB anyway"
            )
        pixels = load_image(image)
        self._set = self.encode([pixels if image_format == "RGB" else pixels[..., ::-1]])

    def reset_image(self) -> None:
        """Forget the image."""
        self._set = None

    def get_image_embedding(self) -> Float[Array, "1 h w d"]:
        """The embedding of the image that is set, channels last.

        Raises:
          UserError: none is.
        """
        return self._require_image().maps

    def predict(
        self,
        point_coords: np.ndarray | None = None,
        point_labels: np.ndarray | None = None,
        box: np.ndarray | None = None,
        mask_input: np.ndarray | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> Segmented:
        """Segment one object of the image that is set.

        Args:
          point_coords, point_labels, box: of `Prompt`, in pixels of the original image.
          mask_input: (1, 256, 256) or (256, 256) logits of an earlier answer, for a model of the
            published sizes.
          multimask_output: three masks, for a single ambiguous prompt; else one.
          return_logits: instead of bool masks.

        Raises:
          UserError: no image is set, or the prompt cannot be meant.
        """
        prompt = Prompt(point_coords, point_labels, box, mask_input)
        return self.predict_all([prompt], multimask_output, return_logits)[0]

    def predict_all(
        self,
        prompts: Sequence[Prompt],
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> list[Segmented]:
        """Segment several objects of the image that is set, in one call of the model.

        Raises:
          UserError: no image is set, or a prompt cannot be meant.
        """
        image = self._require_image()
        return self.segment(image, [prompts], multimask_output, return_logits)[0]

    def encode(self, images: Sequence[ImageSource]) -> Embedded:
        """Embed a batch of images, in one call of the model.

        Raises:
          UserError: there are none, or one cannot be read.
        """
        return self.embed([self.prepare(image) for image in images])

    def prepare(self, image: ImageSource) -> Prepared:
        """Read and resize an image; far smaller than the image, as a rule.

        Raises:
          UserError: the image cannot be read, or is too narrow.
        """
        pixels = load_image(image)
        return Prepared(self.canvas.resize(pixels), pixels.shape[:2])

    def embed(self, prepared: Sequence[Prepared]) -> Embedded:
        """As `encode`, for images that `prepare` made."""
        if not prepared:
            raise UserError("give at least one image; got none")
        canvases = self.canvas.place([image.pixels for image in prepared])
        with jax.default_matmul_precision(self._precision):
            maps = self._encode(self.params, canvases)
        return Embedded(maps, tuple(image.size for image in prepared))

    def segment(
        self,
        images: Embedded,
        prompts: Sequence[Sequence[Prompt]],
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> list[list[Segmented]]:
        """Segment several objects of each of several images, in one call of the model.

        Args:
          images: of `encode`.
          prompts: for each image, as many as are wanted.

        Returns:
          For each image an answer to each of its prompts.

        Raises:
          UserError: not one list of prompts for each image, or a prompt that cannot be meant.
        """
        if len(prompts) != len(images):
            raise UserError(
                f"{len(images)} images need as many lists of prompts; got {len(prompts)}"
            )
        if any(isinstance(sets, Prompt) for sets in prompts):
            raise UserError("give a list of prompts for each image, [[prompt], ...]; got prompts")
        checked = [
            [prompt.checked(size, self.canvas.low) for prompt in sets]
            for sets, size in zip(prompts, images.sizes, strict=True)
        ]
        if not any(checked):
            return [[] for _ in checked]
        padded = pad_prompts(checked, images.sizes, self.canvas)
        with jax.default_matmul_precision(self._precision):
            masks = self._decode(self.params, images.maps, padded, multimask=multimask_output)
        logits, iou = jax.device_get((masks.logits, masks.iou))
        return [
            [
                self._answer(logits[i, j], iou[i, j], size, return_logits)
                for j in range(len(checked[i]))
            ]
            for i, size in enumerate(images.sizes)
        ]

    def _answer(self, low_res, iou, size: Size, return_logits: bool) -> Segmented:
        logits = self.canvas.original(low_res, size)
        return Segmented(logits if return_logits else logits > THRESHOLD, iou, low_res)

    def _require_image(self) -> Embedded:
        if self._set is None:
            raise UserError("no image is set: call set_image first")
        return self._set

    def encode_canvases(self, params: PyTree, canvases: Images) -> Float[Array, "b h w d"]:
        """What is compiled for the encoder: a pure function of uint8 canvases."""
        images = normalize(canvases, self.image.mean, self.image.std)
        return self.model.apply({"params": params}, images, method="encode")

    def _decode_prompts(self, params, maps, prompts, multimask: bool):
        masks = self.model.apply({"params": params}, maps, prompts, method="decode")
        return masks.multiple if multimask else masks.single

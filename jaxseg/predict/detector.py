"""A detector for users: any images in, named boxes out."""

from collections.abc import Callable, Iterable, Sequence
from os import PathLike
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxseg.checkpoints import from_pretrained
from jaxseg.data.classes import Classes
from jaxseg.errors import UserError, require_share
from jaxseg.models.detr.segments import THRESHOLD
from jaxseg.ops.images import normalize
from jaxseg.params import reads_captions
from jaxseg.predict.batches import Batches
from jaxseg.predict.masks import ImageMasks, QueryMasks, predicts_masks, query_masks
from jaxseg.predict.panoptic import Scene
from jaxseg.predict.preprocess import ImageSource, Prepared, Size
from jaxseg.predict.result import Prediction, best_first
from jaxseg.pretrained import ImageConfig
from jaxseg.structures import Images
from jaxseg.typing import Array, Int, PyTree


class Answer(NamedTuple):
    """What the model tells about a batch, or of a row of it: boxes, scores, labels, and masks."""

    boxes: Array
    scores: Array
    labels: Array
    masks: QueryMasks | None


class Detector(Batches):
    """Detect objects in files, PIL images and arrays of any size.

    Images are resized as the model was trained to see them and laid on canvases of a few sizes,
    so that a model compiles once for each (`buckets`), whatever comes. The model computes
    canvas-exactly: an image's boxes depend neither on its canvas nor on its batch.

        detector = Detector.from_pretrained("facebook/detr-resnet-50")
        for prediction in detector(["street.jpg", "cat.png"]):
            print(prediction.names, prediction.boxes)

    Attributes:
      model: with `canvas="exact"`.
      classes: names of the labels, or None.
      buckets: the canvases, (h, w).
      batch_size: images of one call of the model; a smaller group is filled up.
    """

    def __init__(
        self,
        model: nn.Module,
        params: PyTree,
        classes: Classes | None = None,
        image: ImageConfig | None = None,
        *,
        batch_size: int = 1,
        buckets: Sequence[Size] | None = None,
        precision: str = "highest",
    ):
        """Wrap a model.

        Args:
          model, params: a detector of `jaxseg.models` and its parameters.
          classes: the names of its labels; without them objects are called "class 0" and so on.
          image: size and normalisation of its images; None is DETR's.
          batch_size: images to compute at once.
          buckets: canvases as (h, w), multiples of `model.stride`; None derives them from `image`.
          precision: of matrix products (`jax.default_matmul_precision`).

        Raises:
          UserError: a batch size below 1, a canvas that the model cannot divide, or more or fewer
            names than labels.
        """
        if not hasattr(model, "num_classes"):
            how = "prompt Segment Anything with predict.SamPredictor"
            if reads_captions(model):
                how = "tell it what to find with predict.GroundedDetector"
            raise UserError(f"a {type(model).__name__} finds no objects by itself: {how}")
        super().__init__(model.stride, image, batch_size, buckets)
        self.model = model.clone(canvas="exact")
        self.params = jax.device_put(params)
        self.classes = classes
        self._names = label_names(classes, model.num_classes)
        things = (True,) * model.num_classes if classes is None else classes.things
        self._things = tuple(
            None if name is None else thing for name, thing in zip(self._names, things, strict=True)
        )
        self._precision = precision
        self._detect = jax.jit(self.forward)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | PathLike,
        *,
        model: str | None = None,
        revision: str | None = None,
        local_files_only: bool | None = None,
        **options,
    ) -> "Detector":
        """Load a folder of weights or a Hugging Face id.

        Args:
          name_or_path, model, revision, local_files_only: as in
            `jaxseg.checkpoints.from_pretrained`.
          options: of the constructor.

        Raises:
          UserError: there are no such weights.
        """
        weights = from_pretrained(
            name_or_path, model=model, revision=revision, local_files_only=local_files_only
        )
        return cls(weights.model, weights.params, weights.classes, weights.image, **options)

    def __call__(
        self, images: ImageSource | Sequence[ImageSource], threshold: float = 0.5
    ) -> Prediction | list[Prediction]:
        """Find objects of a score of at least `threshold`.

        Args:
          images: a path, PIL image or array (see `preprocess.load_image`), or a list of them.

        Returns:
          One `Prediction` for one image; for a list a list in its order.

        Raises:
          UserError: an image cannot be read, or the threshold is no number from 0 to 1.
        """
        if not isinstance(images, list | tuple):
            return self([images], threshold)[0]
        return self.detect(map(self.prepare, images), threshold)

    def detect(self, prepared: Iterable[Prepared], threshold: float = 0.5) -> list[Prediction]:
        """As the call, for images that `prepare` made; a few at a time are held."""
        require_share("threshold", threshold)

        def name(found: Answer, image: Prepared, masks: ImageMasks | None) -> Prediction:
            return best_first(
                found.boxes,
                found.scores,
                found.labels,
                names=self._names,
                size=image.size,
                threshold=threshold,
                masks_of=None if masks is None else masks.instances,
            )

        return self._each(prepared, name)

    def panoptic(
        self, images: ImageSource | Sequence[ImageSource], threshold: float = THRESHOLD
    ) -> Scene | list[Scene]:
        """Divide images into segments, of queries that are sure of their class by more than
        `threshold`. Images and errors are those of the call.

        Raises:
          UserError: an image cannot be read, the threshold is no number from 0 to 1, or the model
            draws no masks.
        """
        if not isinstance(images, list | tuple):
            return self.panoptic([images], threshold)[0]
        return self.divide(map(self.prepare, images), threshold)

    def divide(self, prepared: Iterable[Prepared], threshold: float = THRESHOLD) -> list[Scene]:
        """As `panoptic`, for images that `prepare` made."""
        require_share("threshold", threshold)
        self.require_masks()

        def name(found: Answer, image: Prepared, masks: ImageMasks) -> Scene:
            segments = masks.panoptic(self._things, threshold)
            return Scene.of(segments, self._names, self._things)

        return self._each(prepared, name)

    def require_masks(self) -> None:
        """Raise `UserError` unless the model draws masks."""
        if not predicts_masks(self.model):
            raise UserError(
                f"a panoptic segmentation needs a model with masks; {type(self.model).__name__} "
                "has boxes alone: take weights of detr.r50_panoptic, for example"
            )

    def _each(self, prepared: Iterable[Prepared], name: Callable) -> list:
        """`name(answer, image, masks)` of every image, in order."""
        found: dict[int, Any] = {}
        for bucket, group in self.groups(prepared):
            canvases, sizes = self.on_canvas(group, bucket)
            with jax.default_matmul_precision(self._precision):
                answer = jax.device_get(self._detect(self.params, canvases, sizes))
            for row, (position, image) in enumerate(group):
                masks = None
                if answer.masks is not None:
                    size = image.pixels.shape[:2]
                    masks = ImageMasks.of(answer.masks, row, bucket, size, image.size, exact=True)
                one = Answer(*(x[row] for x in answer[:3]), None)
                found[position] = name(one, image, masks)
        return [found[position] for position in range(len(found))]

    def forward(self, params: PyTree, images: Images, sizes: Int[Array, "b 2"]) -> "Answer":
        """What is compiled for each canvas: a pure function, for `jax.jit` and its like.

        Args:
          images: uint8 on canvases.
          sizes: (h, w) of the original images.
        """
        images = Images(jnp.asarray(images.pixels), jnp.asarray(images.mask))
        images = normalize(images, self.image.mean, self.image.std)
        output = self.model.apply({"params": params}, images, train=False)
        found = self.model.detections(output, sizes)
        masks = query_masks(self.model, output)
        return Answer(found.boxes, found.scores, found.labels, masks)


def label_names(classes: Classes | None, num_classes: int) -> tuple[str | None, ...]:
    """The name of each label; None for the holes of a numbering, which are never reported.

    Raises:
      UserError: there are more or fewer names than labels.
    """
    if classes is None:
        return tuple(f"class {label}" for label in range(num_classes))
    if len(classes) != num_classes:
        raise UserError(
            f"the model tells {num_classes} classes apart, but {len(classes)} are named: name "
            "each of its labels"
        )
    pairs = zip(classes.names, classes.category_ids, strict=True)
    return tuple(name if category is not None else None for name, category in pairs)

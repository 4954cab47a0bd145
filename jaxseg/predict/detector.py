"""A detector for users: any images in, named boxes out."""

import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from os import PathLike

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxseg.checkpoints import ImageConfig, from_pretrained
from jaxseg.data.classes import Classes
from jaxseg.errors import UserError
from jaxseg.ops.images import normalize
from jaxseg.predict import preprocess
from jaxseg.predict.preprocess import ImageSource, Size
from jaxseg.predict.result import Prediction, best_first
from jaxseg.structures import Detections, Images
from jaxseg.typing import Array, Int, PyTree


class Detector:
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
        """
        self.model = model.clone(canvas="exact")
        self.params = jax.device_put(params)
        self.classes = classes
        self.image = image or ImageConfig()
        self.batch_size = batch_size
        short, long = self.image.short_side, self.image.long_side
        self.buckets = tuple(buckets or preprocess.default_buckets(short, long, self.model.stride))
        self._limit = max(max(bucket) for bucket in self.buckets)
        self._names = label_names(classes, model.num_classes)
        self._precision = precision
        self._detect = jax.jit(self._forward)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | PathLike,
        *,
        revision: str | None = None,
        local_files_only: bool | None = None,
        **options,
    ) -> "Detector":
        """Load a folder of weights or a Hugging Face id.

        Args:
          name_or_path, revision, local_files_only: as in `jaxseg.checkpoints.from_pretrained`.
          options: of the constructor.

        Raises:
          UserError: there are no such weights.
        """
        weights = from_pretrained(
            name_or_path, revision=revision, local_files_only=local_files_only
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
          UserError: an image cannot be read.
        """
        if not isinstance(images, list | tuple):
            return self([images], threshold)[0]
        loaded = [preprocess.load_image(image) for image in images]
        found: list[Prediction | None] = [None] * len(loaded)
        for bucket, positions in self._batches([image.shape[:2] for image in loaded]):
            arrays = self._run([loaded[position] for position in positions], bucket)
            for position, row in zip(positions, zip(*arrays, strict=True), strict=False):
                size = loaded[position].shape[:2]
                found[position] = best_first(
                    *row, names=self._names, size=size, threshold=threshold
                )
        return found

    def _batches(self, sizes: Sequence[Size]) -> Iterator[tuple[Size, list[int]]]:
        """Positions of images that share a canvas, at most `batch_size` at a time."""
        groups: dict[Size, list[int]] = defaultdict(list)
        for position, size in enumerate(sizes):
            bucket = preprocess.choose_bucket(self._resized_size(size), self.buckets)
            groups[bucket].append(position)
        for bucket, positions in groups.items():
            for start in range(0, len(positions), self.batch_size):
                yield bucket, positions[start : start + self.batch_size]

    def _resized_size(self, size: Size) -> Size:
        return preprocess.resized_size(
            size, self.image.short_side, self.image.long_side, self._limit
        )

    def _run(self, images: list[np.ndarray], bucket: Size) -> tuple[np.ndarray, ...]:
        # Rows that fill up a batch repeat an image: a canvas without pixels would give NaN.
        images = images + images[-1:] * (self.batch_size - len(images))
        sizes = np.asarray([image.shape[:2] for image in images], np.int32)
        resized = [
            preprocess.resize(image, self._resized_size(image.shape[:2])) for image in images
        ]
        with jax.default_matmul_precision(self._precision):
            found = self._detect(self.params, preprocess.put_on_canvas(resized, bucket), sizes)
        boxes, scores, labels = jax.device_get((found.boxes, found.scores, found.labels))
        if not np.isfinite(scores).all():
            warnings.warn(
                "the model answers with numbers that are not finite: its weights are damaged or "
                "its training diverged (`jaxseg verify` checks them)",
                stacklevel=3,
            )
        return boxes, scores, labels

    def _forward(self, params: PyTree, images: Images, sizes: Int[Array, "b 2"]) -> Detections:
        images = Images(jnp.asarray(images.pixels), jnp.asarray(images.mask))
        images = normalize(images, self.image.mean, self.image.std)
        output = self.model.apply({"params": params}, images, train=False)
        return self.model.detections(output, sizes)


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

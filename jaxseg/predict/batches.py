"""Images of any size as batches on canvases of a few sizes."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from jaxseg.errors import UserError
from jaxseg.predict import preprocess
from jaxseg.predict.preprocess import ImageSource, Prepared, Size
from jaxseg.pretrained import ImageConfig
from jaxseg.structures import Images

Group = list[tuple[int, Prepared]]


class Batches:
    """Resizes images as a model was trained to see them, and groups those that share a canvas.

    Attributes:
      image: size and normalisation of images.
      batch_size: images of one call of the model; a smaller group is filled up.
      buckets: the canvases, (h, w).
    """

    def __init__(
        self,
        stride: int,
        image: ImageConfig | None = None,
        batch_size: int = 1,
        buckets: Sequence[Size] | None = None,
    ):
        """Choose canvases.

        Args:
          stride: sides of canvases are multiples of it.
          image: None is DETR's.
          buckets: None derives them from `image`.

        Raises:
          UserError: a batch size below 1, or a canvas that the stride does not divide.
        """
        if batch_size < 1:
            raise UserError(f"batch_size must be 1 or more; got {batch_size}")
        self.image = image or ImageConfig()
        self.batch_size = batch_size
        short, long = self.image.short_side, self.image.long_side
        self.buckets = tuple(buckets or preprocess.default_buckets(short, long, stride))
        for height, width in self.buckets:
            if height % stride or width % stride or not height * width > 0:
                raise UserError(
                    f"sides of canvases must be multiples of {stride}, the model's stride; "
                    f"got {height}x{width}"
                )
        self._limit = max(max(bucket) for bucket in self.buckets)

    def prepare(self, image: ImageSource) -> Prepared:
        """Read and resize an image; far smaller than the image, as a rule.

        Raises:
          UserError: the image cannot be read.
        """
        pixels = preprocess.load_image(image)
        size = pixels.shape[:2]
        resized = preprocess.resized_size(
            size, self.image.short_side, self.image.long_side, self._limit
        )
        return Prepared(preprocess.resize(pixels, resized), size)

    def groups(self, prepared: Iterable[Prepared]) -> Iterator[tuple[Size, Group]]:
        """Images that share a canvas, with their positions, at most `batch_size` at a time."""
        groups: dict[Size, Group] = defaultdict(list)
        for position, image in enumerate(prepared):
            bucket = preprocess.choose_bucket(image.pixels.shape[:2], self.buckets)
            groups[bucket].append((position, image))
            if len(groups[bucket]) == self.batch_size:
                yield bucket, groups.pop(bucket)
        yield from groups.items()

    def on_canvas(self, group: Group, bucket: Size) -> tuple[Images, np.ndarray]:
        """A batch of uint8 canvases, and the (h, w) of each original image.

        Rows that fill up a batch repeat an image: a canvas without pixels would give NaN.
        """
        images = [image for _, image in group]
        images += images[-1:] * (self.batch_size - len(images))
        sizes = np.asarray([image.size for image in images], np.int32)
        return preprocess.put_on_canvas([image.pixels for image in images], bucket), sizes


def power_of_two(count: int) -> int:
    """The next one: what is filled up to it needs few programs."""
    return 1 << max(0, count - 1).bit_length()

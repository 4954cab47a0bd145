"""A data set of coloured rectangles and a model that finds them: evaluation without learning."""

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxseg.checkpoints import ImageConfig
from jaxseg.data.classes import Classes
from jaxseg.data.dataset import Example
from jaxseg.structures import Detections, Images

# Pixels pass through unchanged, so that the model can read colours.
IMAGE = ImageConfig((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 64, 107)
SIZES = [(64, 64), (96, 64), (64, 107), (128, 128), (60, 100), (64, 64), (90, 60)]


class Rectangles:
    """One red and one green rectangle an image; the last image is empty."""

    def __init__(self, sizes=SIZES):
        self.classes = Classes.from_categories([{"id": 7, "name": "red"}, {"id": 90, "name": "g"}])
        self.sizes = np.asarray(sizes, np.int32)
        self.image_ids = [f"image-{i}" for i in range(len(sizes))]

    def __len__(self) -> int:
        return len(self.sizes)

    def boxes(self, index: int) -> np.ndarray:
        """xyxy, a red box left of a green one; fractions of the image that leave whole pixels."""
        if index == len(self) - 1:
            return np.zeros((0, 4), np.float32)
        height, width = self.sizes[index]
        rng = np.random.default_rng(index)
        x = np.sort(rng.choice(8, 4, replace=False) + 1) / 9 * width
        y1, y2 = rng.uniform(0, 0.3, 2) * height, rng.uniform(0.6, 1, 2) * height
        boxes = [[x[0], y1[0], x[1], y2[0]], [x[2], y1[1], x[3], y2[1]]]
        return np.round(np.asarray(boxes, np.float32))

    def __getitem__(self, index: int) -> Example:
        image = np.zeros((*self.sizes[index], 3), np.uint8)
        boxes = self.boxes(index)
        for label, (x1, y1, x2, y2) in enumerate(boxes.astype(int)):
            image[y1:y2, x1:x2, label] = 255
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        labels, crowd = np.arange(len(boxes), dtype=np.int32), np.zeros(len(boxes), bool)
        return Example(image, boxes, labels, area, crowd, self.image_ids[index], f"{index}.png")

    def coco(self) -> dict:
        annotations = [
            {"id": len(self) * index + label, "image_id": self.image_ids[index],
             "category_id": self.classes.category_ids[label], "iscrowd": 0,
             "bbox": [float(v) for v in (x1, y1, x2 - x1, y2 - y1)],
             "area": float((x2 - x1) * (y2 - y1))}
            for index in range(len(self))
            for label, (x1, y1, x2, y2) in enumerate(self.boxes(index))
        ]  # fmt: skip
        images = [
            {"id": i, "height": int(h), "width": int(w)}
            for i, (h, w) in zip(self.image_ids, self.sizes, strict=True)
        ]
        return {
            "images": images,
            "annotations": annotations,
            "categories": self.classes.to_categories(),
        }


class ColourFinder(nn.Module):
    """Finds the extent of each of two colours; `gain` scales the boxes it reports."""

    num_classes: int = 2
    canvas: str = "padded"
    stride: int = 32

    @nn.compact
    def __call__(self, images: Images, train: bool = False):
        gain = self.param("gain", nn.initializers.ones, ())
        colour = images.pixels[..., :2] > 0.5  # b h w k
        rows, columns = colour.any(2), colour.any(1)
        size = jnp.stack([images.mask.any(2).sum(1), images.mask.any(1).sum(1)], -1)
        y, x = _extent(rows), _extent(columns)
        boxes = jnp.stack([x[0], y[0], x[1], y[1]], -1).astype(jnp.float32) * gain
        return boxes, colour.any((1, 2)), size

    def detections(self, output, original_sizes) -> Detections:
        boxes, found, size = output
        scale = (original_sizes / size)[:, ::-1]
        labels = jnp.broadcast_to(jnp.arange(2, dtype=jnp.int32), found.shape)
        return Detections(boxes * jnp.tile(scale, 2)[:, None], jnp.where(found, 0.9, 0.01), labels)


def _extent(hit):
    """First and last + 1 index of True along axis 1 of (b, n, k)."""
    n = hit.shape[1]
    return jnp.argmax(hit, 1), n - jnp.argmax(hit[:, ::-1], 1)

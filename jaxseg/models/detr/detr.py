"""DETR: end-to-end object detection with transformers (arXiv 2005.12872).

features = backbone(images)          ResNet, the last stage
memory   = encoder(input_proj(features) with sine positions)
states   = decoder(learned queries, memory)
outputs  = class_embed(states), bbox_embed(states)      for every layer
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxseg.models.detr.heads import softmax_detections
from jaxseg.models.detr.queries import learned_rows
from jaxseg.nn.initializers import torch_bias, torch_uniform
from jaxseg.nn.layers import Conv, Mlp, torch_dense
from jaxseg.ops.images import resize_mask
from jaxseg.structures import Detections, DetectorOutput, Features, Images, Targets
from jaxseg.typing import Array, DTypeLike, Int

Canvas = Literal["padded", "exact"]


class Detr(nn.Module):
    """The detector of the paper's figure 2.

    Attributes:
      backbone: images to maps; the last one is used.
      encoder, decoder: the two halves of the transformer.
      position: mask to position embedding.
      num_classes: labels are 0 to num_classes - 1; one more output stands for no object.
      num_queries: detections of an image.
      width: of the transformer.
      canvas: "padded" computes a padded batch as the original does; "exact" gives every image
        the result that it has alone, whatever its canvas and neighbours.
    """

    backbone: nn.Module
    encoder: nn.Module
    decoder: nn.Module
    position: nn.Module
    num_classes: int = 91
    num_queries: int = 100
    width: int = 256
    canvas: Canvas = "padded"
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @property
    def stride(self) -> int:
        """Canvases are multiples of this."""
        return self.backbone.strides[-1]

    @nn.compact
    def __call__(
        self, images: Images, targets: Targets | None = None, train: bool = False
    ) -> DetectorOutput:
        """Detect.

        Args:
          images: normalised, zero on padding, (b, h, w, 3).
          targets: not used by this model; detectors with denoising queries read them.
          train: dropout is on (rng "dropout").
        """
        del targets
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        exact = is_exact(self.canvas)
        check_images(images, self.stride if exact else 1)
        pixels = images.pixels.astype(self.dtype)

        maps = self.backbone(pixels, images.mask if exact else None, train)
        masks = tuple(resize_mask(images.mask, *x.shape[1:3]) for x in maps)
        (b, h, w, channels), mask = maps[-1].shape, masks[-1]
        position = self.position(mask).reshape(b, h * w, self.width)

        bias_init = torch_bias(channels)
        input_proj = Conv(
            self.width, 1, use_bias=True, kernel_init=torch_uniform, bias_init=bias_init,
            name="input_proj", **dtypes,
        )  # fmt: skip
        projected = input_proj(maps[-1])
        tokens = projected.reshape(b, h * w, self.width)
        memory = self.encoder(tokens, position, mask.reshape(b, -1), train)

        query = learned_rows(self, "query_embed", self.num_queries, self.width)
        query = jnp.broadcast_to(query, (b, *query.shape))
        states = self.decoder(query, memory, position, mask.reshape(b, -1), train)

        last = {"dtype": jnp.float32, "param_dtype": self.param_dtype}
        dense = torch_dense(self.num_classes + 1, self.width, "class_embed", **last)
        widths = (self.width, self.width, 4)
        boxes = Mlp(widths, **dtypes, final_dtype=jnp.float32, name="bbox_embed")(states)
        return DetectorOutput(
            logits=dense(states),
            boxes=jax.nn.sigmoid(boxes),
            states=states,
            memory=memory,
            features=Features(tuple(maps), masks),
            position=position,
            extras={"projected": projected},
        )

    def detections(self, output: DetectorOutput, original_sizes: Int[Array, "b 2"]) -> Detections:
        """The last layer's detections in pixels of `original_sizes` (h, w)."""
        return softmax_detections(output, original_sizes)


def is_exact(canvas: str) -> bool:
    """Whether features outside each image are kept at zero; other names are refused."""
    if canvas not in get_args(Canvas):
        raise ValueError(f"canvas must be one of {', '.join(get_args(Canvas))}; got {canvas!r}")
    return canvas == "exact"


def check_images(images: Images, multiple: int) -> None:
    """Raise `ValueError` unless images are normalised floats whose sides `multiple` divides."""
    shape = images.pixels.shape
    if len(shape) != 4 or shape[-1] != 3:
        raise ValueError(f"images must be (b, h, w, 3), channels last; got {shape}")
    if shape[1] % multiple or shape[2] % multiple:
        raise ValueError(
            f"sides of images must be multiples of {multiple}; got {shape[1]} × {shape[2]}: "
            "use data.batching.pad_to_multiple"
        )
    if not jnp.issubdtype(images.pixels.dtype, jnp.floating):
        raise ValueError(
            f"images must be normalised floats; got {images.pixels.dtype}: use ops.images.normalize"
        )

"""Segment Anything (arXiv 2304.02643, figure 4): encode an image once, decode any prompt.

embedding = encode(images)                    a plain ViT, the heavy step
masks     = decode(embedding, prompts)        points, boxes, masks, or nothing
"""

import jax.numpy as jnp
from flax import linen as nn

from jaxseg.models.detr.detr import check_images
from jaxseg.models.sam.image_encoder import ImageEncoder
from jaxseg.models.sam.mask_decoder import MaskDecoder
from jaxseg.models.sam.prompt_encoder import PromptEncoder
from jaxseg.structures import Images, Masks, Prompts
from jaxseg.typing import Array, DTypeLike, Float


class Sam(nn.Module):
    """Promptable segmentation; `encode` and `decode` are its two halves.

    Attributes:
      image_encoder: pixels to an embedding.
      prompt_encoder: prompts to tokens and a map.
      mask_decoder: both to masks.
    """

    image_encoder: ImageEncoder
    prompt_encoder: PromptEncoder
    mask_decoder: MaskDecoder
    dtype: DTypeLike = jnp.float32

    probe_depth = 3  # blocks are "image_encoder/vit/block_0"

    @property
    def canvas_size(self) -> int:
        """Pixels of a side of the canvas that every image lies on."""
        return self.prompt_encoder.image_size

    @property
    def mask_size(self) -> int:
        """Logits of a side of a mask, as it comes and as a prompt."""
        return 4 * self.prompt_encoder.grid

    def __call__(
        self, images: Images, prompts: Prompts | None = None, train: bool = False
    ) -> Masks:
        """Segment what each set of prompts means; without any, what the model thinks of."""
        return self.decode(self.encode(images, train), prompts or Prompts(), train)

    def encode(self, images: Images, train: bool = False) -> Float[Array, "b h w d"]:
        """The embeddings of images.

        Args:
          images: normalised, zero on padding, on canvases of `canvas_size`.
          train: drop paths are on (rng "dropout").

        Raises:
          ValueError: images of another size.
        """
        check_images(images, 1)
        side, shape = self.canvas_size, images.pixels.shape
        if shape[1:3] != (side, side):
            raise ValueError(
                f"this model's images lie on canvases of {side} × {side}; got {shape[1]} × "
                f"{shape[2]}: resize the long side to {side} and fill up with zeros"
            )
        return self.image_encoder(images.pixels.astype(self.dtype), train)

    def decode(
        self, embedding: Float[Array, "b h w d"], prompts: Prompts, train: bool = False
    ) -> Masks:
        """The masks of each set of prompts: the single one, then those of ambiguous prompts.

        Args:
          embedding: of `encode`.
          train: dropout is on (rng "dropout").

        Raises:
          ValueError: prompts whose shapes do not fit (see `check_prompts`).
        """
        batch, grid = embedding.shape[0], self.prompt_encoder.grid
        if embedding.shape[1:3] != (grid, grid):
            raise ValueError(
                f"embeddings of this model are {grid} × {grid}; got {embedding.shape[1]} × "
                f"{embedding.shape[2]}: take those of its own encode"
            )
        if prompts.images not in (1, batch):
            raise ValueError(
                f"prompts must be for as many images as there are embeddings, {batch}; got those "
                f"for {prompts.images}"
            )
        encoded = self.prompt_encoder(prompts)
        return self.mask_decoder(embedding, self.prompt_encoder.position(), encoded, train)

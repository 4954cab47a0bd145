"""What all deformable detectors do before their decoder (arXiv 2010.04159, section 4.1).

features = backbone(images)              several strides
tokens   = neck(features)                one width, more strides, joined finest first
memory   = encoder(tokens, sines + level_embed)
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxseg.kernels.ms_deform_attn import Shapes
from jaxseg.ops.images import resize_mask
from jaxseg.structures import Features, Images
from jaxseg.typing import Array, Bool, Float, Int


class Encoded(NamedTuple):
    """The encoder's result and what the decoder needs beside it.

    `take` gives rows of it, so that one image can be looked at for several reasons.

    Attributes:
      memory: encoder output.
      tokens: what entered the encoder.
      position: sines and level embedding.
      mask: True on real tokens.
      masks: of each level.
      valid_ratios: real part of the width and height of each level.
      shapes: (h, w) of each level.
      features: what the backbone returned.
    """

    memory: Float[Array, "b n d"]
    tokens: Float[Array, "b n d"]
    position: Float[Array, "b n d"]
    mask: Bool[Array, "b n"]
    masks: tuple[Bool[Array, "b _h _w"], ...]
    valid_ratios: Float[Array, "b l 2"]
    shapes: Shapes
    features: Features

    def take(self, rows: Int[Array, " p"]) -> "Encoded":
        """For each of p rows what belongs to one of the b images."""
        shapes = self.shapes
        return jax.tree.map(lambda x: x[rows], self._replace(shapes=()))._replace(shapes=shapes)


def encode(model: nn.Module, images: Images, exact: bool, train: bool) -> Encoded:
    """Run `model.backbone`, `model.neck` and `model.encoder`; arguments as in `look`."""
    seen = look(model, images, exact, train)
    reference = cell_centres(seen.valid_ratios, seen.shapes)
    memory = model.encoder(seen.tokens, seen.position, reference, seen.shapes, seen.mask, train)
    return seen._replace(memory=memory)


def look(model: nn.Module, images: Images, exact: bool, train: bool) -> Encoded:
    """Run `model.backbone` and `model.neck`; the memory is still the tokens themselves.

    Called inside the model's compact method, which gets the parameter `level_embed`.

    Args:
      exact: features outside each image are kept at zero.
    """
    pixels = images.pixels.astype(model.dtype)
    maps = model.backbone(pixels, images.mask if exact else None, train)
    shapes = level_shapes([x.shape[1:3] for x in maps], model.neck.num_levels)
    masks = level_masks(model.backbone, images.mask, shapes, exact)
    levels = model.neck(maps, masks if exact else None)

    init = nn.initializers.normal(1.0)
    shape = (len(shapes), model.width)
    level_embed = model.param("level_embed", init, shape, model.param_dtype)
    sines = [model.position(mask) + level_embed[i] for i, mask in enumerate(masks)]
    tokens, position, mask = join(levels), join(sines), join(masks)
    ratios = valid_ratios(masks)
    features = Features(tuple(maps), masks[: len(maps)])
    return Encoded(tokens, tokens, position, mask, masks, ratios, shapes, features)


def level_stages(num_levels: int) -> tuple[int, ...]:
    """The stages of a ResNet or Swin that levels are made of: three, or fewer of the coarsest."""
    return (1, 2, 3)[-num_levels:]


def level_shapes(shapes: Sequence[tuple[int, int]], count: int) -> Shapes:
    """Shapes of the backbone's maps and of the levels beyond, each half as large."""
    shapes = list(shapes)
    while len(shapes) < count:
        h, w = shapes[-1]
        shapes.append(((h + 1) // 2, (w + 1) // 2))
    return tuple(shapes)


def level_masks(
    backbone: nn.Module, mask: Bool[Array, "b H W"], shapes: Shapes, exact: bool
) -> tuple[Bool[Array, "b _h _w"], ...]:
    """True on real positions of each level.

    Args:
      backbone: with `masks(mask)` where its maps lose rows or columns that strides would keep.
      exact: whether real positions are those that each image alone has.
    """
    masks = [resize_mask(mask, h, w) for h, w in shapes]
    if exact and hasattr(backbone, "masks"):
        kept = list(backbone.masks(mask))
        while len(kept) < len(masks):
            kept.append(kept[-1][:, ::2, ::2])
        masks = [real & there for real, there in zip(masks, kept, strict=True)]
    return tuple(masks)


def coarsest_stride(backbone: nn.Module, neck: nn.Module) -> int:
    """Of a neck's last level; every level beyond the backbone's doubles it."""
    return backbone.strides[-1] * 2 ** (neck.num_levels - len(backbone.strides))


def join(levels: Sequence[Array]) -> Array:
    """Maps (b, h, w, ...) as tokens (b, n, ...), finest first, each row by row."""
    return jnp.concatenate([x.reshape(x.shape[0], -1, *x.shape[3:]) for x in levels], 1)


def valid_ratios(masks: Sequence[Bool[Array, "b _h _w"]]) -> Float[Array, "b l 2"]:
    """The real part of each level's width and height, counted on its first row and column."""
    ratios = []
    for mask in masks:
        width, height = mask[:, 0, :].mean(-1), mask[:, :, 0].mean(-1)
        ratios.append(jnp.stack([width, height], -1))
    # A row that only fills up the batch has nothing real; its quotients only have to be finite.
    return jnp.maximum(jnp.stack(ratios, 1), 1e-6)


def cell_centres(ratios: Float[Array, "b l 2"], shapes: Shapes) -> Float[Array, "b n l 2"]:
    """Where each token looks from on every level, in [0, 1] of that level's canvas."""
    centres = []
    for level, (h, w) in enumerate(shapes):
        y, x = jnp.meshgrid(jnp.arange(h) + 0.5, jnp.arange(w) + 0.5, indexing="ij")
        cells = jnp.stack([x / w, y / h], -1).reshape(1, -1, 2)
        centres.append(cells / ratios[:, level, None])
    return jnp.concatenate(centres, 1)[:, :, None] * ratios[:, None]

"""Plain vision transformers for dense prediction (ViTDet, arXiv 2203.16527, section 3).

One map of one stride; most blocks attend in windows, a few, evenly spread, to the whole map. There
is no class token and no final norm. Segment Anything's image encoder is the same with a neck.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from flax import linen as nn

from jaxseg.backbones.vit_blocks import Block
from jaxseg.nn.layers import zero_padding
from jaxseg.nn.vision import PatchEmbed, drop_path_rates, narrow_normal
from jaxseg.ops.resample import resize_grid
from jaxseg.ops.windows import extents
from jaxseg.typing import Array, Bool, DTypeLike, Float


class Size(NamedTuple):
    """Width, depth and heads; the blocks that attend to the whole map; the last drop path rate."""

    width: int
    depth: int
    num_heads: int
    global_blocks: tuple[int, ...]
    drop_path: float


# Sizes: arXiv 2010.11929, table 1 (small: arXiv 2012.12877, table 1). The last block of each
# quarter is global: arXiv 2203.16527, section 3; drop path: its appendix.
SIZES = {
    "small": Size(384, 12, 6, (2, 5, 8, 11), 0.1),
    "base": Size(768, 12, 12, (2, 5, 8, 11), 0.1),
    "large": Size(1024, 24, 16, (5, 11, 17, 23), 0.4),
    "huge": Size(1280, 32, 16, (7, 15, 23, 31), 0.5),
}


class ViT(nn.Module):
    """A plain vision transformer with windowed blocks.

    Attributes:
      width, depth, num_heads: of the blocks.
      patch: side of the patches in pixels; the stride of the map.
      window: side in tokens of the windows of all blocks but `global_blocks`.
      image_size: side in pixels of the images that the relative positions of global blocks are
        made for; other sizes read them resized.
      position_size: the same of the absolute positions, which come from pre-training; None is
        without.
      relative: with relative positions.
      drop_path: rate of the last block; the first has 0, and those between lie on a line.
      remat: recompute blocks in the backward pass to save memory.
    """

    width: int = 768
    depth: int = 12
    num_heads: int = 12
    global_blocks: Sequence[int] = (2, 5, 8, 11)
    drop_path: float = 0.1
    patch: int = 16
    window: int = 14
    image_size: int = 1024
    position_size: int | None = 224
    relative: bool = True
    mlp_ratio: float = 4.0
    remat: bool = False
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels of the image to a step of the one returned map."""
        return (self.patch,)

    @nn.compact
    def __call__(
        self,
        pixels: Float[Array, "b h w 3"],
        mask: Bool[Array, "b h w"] | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "b _h _w {self.width}"]]:
        """Compute the feature map.

        With a mask (True on real pixels) the result on real positions is that of each image
        alone: windows and positions follow its own extent, and padding is no key. Without,
        padding is content, as in the originals, which pad every image to one square.

        Args:
          train: drop paths (rng "dropout").
        """
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = zero_padding(pixels, mask)
        x = PatchEmbed(self.width, self.patch, **dtypes, name="patch_embed")(x)
        mask = None if mask is None else mask[:, :: self.patch, :: self.patch]
        if self.position_size is not None:
            x = x + self._position(*x.shape[1:3], mask).astype(x.dtype)
        rates = drop_path_rates(self.drop_path, self.depth)
        block = nn.remat(Block, static_argnums=(3,)) if self.remat else Block
        for i, rate in enumerate(rates):
            x = block(
                self.num_heads,
                None if i in self.global_blocks else self.window,
                self.image_size // self.patch,
                self.relative,
                self.mlp_ratio,
                rate,
                **dtypes,
                name=f"block_{i}",
            )(x, mask, train)
        return (x,)

    def _position(self, height, width, mask):
        side = self.position_size // self.patch
        shape = (1, side, side, self.width)
        grid = self.param("position_embed", narrow_normal, shape, self.param_dtype)
        sizes = None if mask is None else extents(mask)
        return resize_grid(jnp.asarray(grid[0], jnp.float32), height, width, sizes=sizes)


def vit(size: str = "base", **fields) -> ViT:
    """A ViTDet backbone of one of `SIZES`."""
    if size not in SIZES:
        raise ValueError(f"no ViT of size {size!r}; there are {sorted(SIZES)}")
    return ViT(**SIZES[size]._asdict() | fields)


def vit_s(**fields) -> ViT:
    """ViT-S/16 with windows: 22 M parameters."""
    return vit("small", **fields)


def vit_b(**fields) -> ViT:
    """ViT-B/16 with windows: 86 M parameters."""
    return vit("base", **fields)


def vit_l(**fields) -> ViT:
    """ViT-L/16 with windows: 304 M parameters."""
    return vit("large", **fields)


def vit_h(**fields) -> ViT:
    """ViT-H/16 with windows: 632 M parameters."""
    return vit("huge", **fields)

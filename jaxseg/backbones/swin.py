"""Swin Transformer (arXiv 2103.14030), the variant that detectors use.

Windows are never shrunk and always shift, however small the map; each returned stage has a layer
normalisation of its own, which the next stage does not see. Stages are numbered 0 to 3.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from flax import linen as nn

from jaxseg.backbones.swin_blocks import Block, PatchMerging
from jaxseg.nn.layers import layer_norm, zero_padding
from jaxseg.nn.vision import PatchEmbed, drop_path_rates, narrow_normal
from jaxseg.ops.resample import resize_grid
from jaxseg.ops.windows import extents, shift_regions
from jaxseg.typing import Array, Bool, DTypeLike, Float

PATCH = 4


class Size(NamedTuple):
    """One row of section 3.3: channels of stage 0, blocks and heads of each stage."""

    width: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]


SIZES = {
    "tiny": Size(96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "small": Size(96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "base": Size(128, (2, 2, 18, 2), (4, 8, 16, 32)),
    "large": Size(192, (2, 2, 18, 2), (6, 12, 24, 48)),
}
# Side of the windows by the side of the images in pre-training (section 4.1).
WINDOWS = {224: 7, 384: 12}


class Swin(nn.Module):
    """The hierarchical backbone of DINO's and Grounding DINO's larger models.

    Attributes:
      width: channels of stage 0; every merging doubles them.
      depths, num_heads: of each stage.
      window: side of the windows in tokens.
      stages: which outputs are returned, finest first.
      dilation: the last stage keeps the resolution and the channels of the one before.
      drop_path: rate of the last block; the first has 0, and those between lie on a line.
      position_size: side in pixels of the images that an absolute position embedding was made
        for; None, as in all published models, is without one.
      remat: recompute blocks in the backward pass to save memory.
    """

    width: int = 96
    depths: Sequence[int] = (2, 2, 6, 2)
    num_heads: Sequence[int] = (3, 6, 12, 24)
    window: int = 7
    mlp_ratio: float = 4.0
    stages: Sequence[int] = (1, 2, 3)
    dilation: bool = False
    drop_path: float = 0.2
    position_size: int | None = None
    remat: bool = False
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels of the image to a step of each returned map."""
        return tuple(PATCH * 2 ** self._mergings(stage) for stage in self.stages)

    def _mergings(self, stage: int) -> int:
        return stage - (self.dilation and stage == len(self.depths) - 1)

    @nn.compact
    def __call__(
        self,
        pixels: Float[Array, "b h w 3"],
        mask: Bool[Array, "b h w"] | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "b _h _w _c"], ...]:
        """Compute the feature maps.

        With a mask (True on real pixels) the result on real positions is that of each image
        alone: windows, shifts, mergings and absolute positions follow its own extent. Without,
        padding is content after the first normalisation, as in the originals.

        Args:
          train: drop paths (rng "dropout").
        """
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = zero_padding(pixels, mask)
        x = PatchEmbed(self.width, PATCH, **dtypes, name="patch_embed")(x)
        x = layer_norm("patch_norm", **dtypes)(x)
        mask = None if mask is None else mask[:, ::PATCH, ::PATCH]
        if self.position_size is not None:
            x = x + self._position(*x.shape[1:3], mask).astype(x.dtype)
        rates = iter(drop_path_rates(self.drop_path, sum(self.depths)))
        outputs = []
        for stage in range(max(self.stages) + 1):
            x = self._blocks(stage, x, mask, rates, train)
            if stage in self.stages:
                outputs.append(layer_norm(f"norm{stage}", **dtypes)(x))
            last = stage == max(self.stages)
            if not last and self._mergings(stage + 1) > self._mergings(stage):
                x = PatchMerging(**dtypes, name=f"downsample{stage}")(zero_padding(x, mask))
                mask = None if mask is None else mask[:, ::2, ::2]
        return tuple(outputs)

    def _blocks(self, stage, x, mask, rates, train):
        height, width = x.shape[1:3]
        sizes = jnp.array([[height, width]]) if mask is None else extents(mask)
        shift = self.window // 2
        regions = shift_regions(sizes, height, width, self.window, shift)
        block = nn.remat(Block, static_argnums=(4,)) if self.remat else Block
        for i in range(self.depths[stage]):
            odd = i % 2 == 1
            x = block(
                self.num_heads[stage],
                self.window,
                shift if odd else 0,
                self.mlp_ratio,
                next(rates),
                self.dtype,
                self.param_dtype,
                name=f"stage{stage}_{i}",
            )(x, mask, regions if odd else None, train)
        return x

    def _position(self, height, width, mask):
        side = self.position_size // PATCH
        shape = (1, side, side, self.width)
        grid = self.param("position_embed", narrow_normal, shape, self.param_dtype)
        sizes = None if mask is None else extents(mask)
        return resize_grid(jnp.asarray(grid[0], jnp.float32), height, width, sizes=sizes)


def swin(size: str | Sequence = "tiny", pretraining: int = 224, **fields) -> Swin:
    """A Swin of one of `SIZES`, with the windows of its pre-training at 224 or 384 pixels.

    Args:
      size: a name, or a row of its own: width, depths and heads.
    """
    if isinstance(size, str) and size not in SIZES:
        raise ValueError(
            f"no Swin of size {size!r}; there are {sorted(SIZES)}, or give width, depths and heads"
        )
    row = SIZES[size] if isinstance(size, str) else Size(size[0], *map(tuple, size[1:]))
    if pretraining not in WINDOWS:
        raise ValueError(f"no Swin pre-trained at {pretraining}; there are {sorted(WINDOWS)}")
    return Swin(**row._asdict() | {"window": WINDOWS[pretraining]} | fields)


def swin_t(**fields) -> Swin:
    """Swin-T, pre-trained at 224: 28.3 M parameters with its classifier."""
    return swin("tiny", **fields)


def swin_s(**fields) -> Swin:
    """Swin-S, pre-trained at 224: 49.6 M."""
    return swin("small", **fields)


def swin_b(**fields) -> Swin:
    """Swin-B, pre-trained at 224: 87.8 M."""
    return swin("base", **fields)


def swin_b_384(**fields) -> Swin:
    """Swin-B with windows of 12, pre-trained at 384: 87.9 M."""
    return swin("base", 384, **fields)


def swin_l(**fields) -> Swin:
    """Swin-L, pre-trained at 224: 196.5 M."""
    return swin("large", **fields)


def swin_l_384(**fields) -> Swin:
    """Swin-L with windows of 12, pre-trained at 384: 196.7 M; the one in DINO's tables."""
    return swin("large", 384, **fields)

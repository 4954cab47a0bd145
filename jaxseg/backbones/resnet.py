"""ResNet v1.5 (arXiv 1512.03385; the stride of a bottleneck sits in its 3×3 convolution).

Stages are numbered 0 to 3; stage i is the paper's conv{i+2}_x and torchvision's layer{i+1}.
"""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from flax import linen as nn

from jaxseg.nn.layers import Conv, FrozenBatchNorm, GroupNorm, zero_padding
from jaxseg.ops.pool import max_pool
from jaxseg.typing import Array, Bool, DTypeLike, Float

# depth of each stage (arXiv 1512.03385, table 1), and whether blocks are bottlenecks
SIZES = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
}
NORMS = {"frozen_batch_norm": FrozenBatchNorm, "group_norm": GroupNorm}


class Block(nn.Module):
    """One residual block: two 3×3 convolutions, or 1×1, 3×3, 1×1 with four times the width."""

    width: int
    bottleneck: bool
    stride: int = 1
    dilation: int = 1
    project: bool = False  # the first block of a stage changes the shape of the shortcut
    norm: Callable[..., nn.Module] = FrozenBatchNorm
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        mask_in: Bool[Array, "b h w"] | None,
        mask_out: Bool[Array, "b _h _w"] | None,
    ) -> Float[Array, "b _h _w _c"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        wide, out = {"stride": self.stride, "dilation": self.dilation}, self.width
        # (kernel, width, options, mask of what comes in, mask of what goes out)
        if self.bottleneck:
            out = 4 * self.width
            steps = [
                (1, self.width, {}, mask_in, mask_in),
                (3, self.width, wide, mask_in, mask_out),
                (1, out, {}, mask_out, mask_out),
            ]
        else:
            steps = [
                (3, self.width, wide, mask_in, mask_out),
                (3, out, {}, mask_out, mask_out),
            ]
        y = x
        for i, (kernel, width, options, before, after) in enumerate(steps, 1):
            y = zero_padding(y, before) if kernel > 1 else y
            y = Conv(width, kernel, **options, **dtypes, name=f"conv{i}")(y)
            y = self.norm(**dtypes, name=f"norm{i}")(y, after)
            y = nn.relu(y) if i < len(steps) else y
        if self.project:
            x = Conv(out, 1, self.stride, **dtypes, name="downsample_conv")(x)
            x = self.norm(**dtypes, name="downsample_norm")(x, mask_out)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """The convolutional backbone of DETR and its successors.

    Attributes:
      depths: blocks in each stage.
      bottleneck: three-layer blocks (50 layers and more).
      dilation: the last stage keeps its resolution (DETR's DC5): its first block is plain with
        stride 1, later blocks dilate by 2.
      stages: which outputs are returned, finest first.
      width: channels of the stem; every stage doubles them.
      norm: `FrozenBatchNorm`, or `GroupNorm` for training from random weights.
    """

    depths: Sequence[int] = (3, 4, 6, 3)
    bottleneck: bool = True
    dilation: bool = False
    stages: Sequence[int] = (3,)
    width: int = 64
    norm: Callable[..., nn.Module] = FrozenBatchNorm
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels of the image to a step of each returned map."""
        return tuple((4, 8, 16, 16 if self.dilation else 32)[stage] for stage in self.stages)

    @nn.compact
    def __call__(
        self,
        pixels: Float[Array, "b h w 3"],
        mask: Bool[Array, "b h w"] | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "b _h _w _c"], ...]:
        """Compute the feature maps, the same in training.

        With a mask (True on real pixels) the result on real positions is that of each image
        alone: features outside it are zeroed before every operation wider than one pixel.
        Without, padding is content after the first normalisation, as in the originals.
        """
        del train
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = Conv(self.width, 7, 2, **dtypes, name="conv1")(zero_padding(pixels, mask))
        mask = _halve(mask)
        x = nn.relu(self.norm(**dtypes, name="norm1")(x, mask))
        x = zero_padding(x, mask)  # after ReLU zero serves as minus infinity
        x = max_pool(x, 3, 2, padding=1)
        mask = _halve(mask)
        outputs = []
        for stage, depth in enumerate(self.depths[: max(self.stages) + 1]):
            dilate = self.dilation and stage == 3
            for i in range(depth):
                stride = 2 if i == 0 and stage > 0 and not dilate else 1
                after = _halve(mask) if stride == 2 else mask
                x = Block(
                    self.width * 2**stage,
                    self.bottleneck,
                    stride,
                    dilation=2 if dilate and i > 0 else 1,
                    project=i == 0 and (stage > 0 or self.bottleneck),
                    norm=self.norm,
                    **dtypes,
                    name=f"layer{stage + 1}_{i}",
                )(x, mask, after)
                mask = after
            if stage in self.stages:
                outputs.append(x)
        return tuple(outputs)


def resnet(depth: int, norm: str = "frozen_batch_norm", **fields) -> ResNet:
    """ResNet-18, -34, -50 or -101; `norm` is a name in `NORMS`."""
    if depth not in SIZES:
        raise ValueError(f"no ResNet-{depth}; there are {sorted(SIZES)}")
    if norm not in NORMS:
        raise ValueError(f"no norm {norm!r}; there are {sorted(NORMS)}")
    depths, bottleneck = SIZES[depth]
    return ResNet(depths=depths, bottleneck=bottleneck, norm=NORMS[norm], **fields)


def _halve(mask):
    # Every strided layer here maps an extent of n to ceil(n / 2).
    return None if mask is None else mask[:, ::2, ::2]

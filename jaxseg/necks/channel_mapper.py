"""Every level to one width, and coarser levels than the backbone has.

Deformable DETR (arXiv 2010.04159), appendix A.2 and figure 4; the same in DINO.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen as nn

from jaxseg.nn.initializers import xavier_uniform
from jaxseg.nn.layers import Conv, GroupNorm, zero_padding
from jaxseg.typing import Array, Bool, DTypeLike, Float


class ChannelMapper(nn.Module):
    """A 1×1 convolution and group normalisation for each map of the backbone.

    Each further level is a 3×3 convolution with stride 2, of the backbone's last map for the
    first, of the level before (normalised) for the others.

    Attributes:
      width: channels of every level.
      num_levels: at least as many as the backbone returns.
    """

    width: int = 256
    num_levels: int = 4
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        maps: Sequence[Float[Array, "b _h _w _c"]],
        masks: Sequence[Bool[Array, "b _h _w"]] | None = None,
    ) -> tuple[Float[Array, "b _h _w {self.width}"], ...]:
        """Compute the levels, finest first.

        Args:
          masks: of all levels, True on real positions; with them features outside are kept out
            of convolutions and statistics. Without, padding is content, as in the originals.
        """
        if len(maps) > self.num_levels:
            raise ValueError(
                f"the backbone returns {len(maps)} maps, the neck has {self.num_levels} levels: "
                "choose fewer stages or more levels"
            )
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        levels = []
        for i in range(self.num_levels):
            if i < len(maps):
                x, kernel, stride = maps[i], 1, 1
            else:
                x, kernel, stride = maps[-1] if i == len(maps) else levels[-1], 3, 2
                x = zero_padding(x, None if masks is None else masks[i - 1])
            x = Conv(
                self.width,
                kernel,
                stride,
                use_bias=True,
                kernel_init=xavier_uniform,
                **dtypes,
                name=f"conv_{i}",
            )(x)
            norm = GroupNorm(32, least=1, **dtypes, name=f"norm_{i}")
            levels.append(norm(x, None if masks is None else masks[i]))
        return tuple(levels)

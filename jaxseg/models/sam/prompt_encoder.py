"""Segment Anything's prompt encoder (arXiv 2304.02643, section A): points, boxes and masks to
embeddings; positions are random Fourier features (arXiv 2006.10739).
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from jaxseg.nn.initializers import torch_bias, torch_uniform
from jaxseg.nn.layers import Conv, layer_norm
from jaxseg.nn.vision import PatchEmbed
from jaxseg.structures import BACKGROUND, FOREGROUND, NOT_A_POINT, Prompts
from jaxseg.typing import Array, Bool, DTypeLike, Float

EPSILON = 1e-6
# Beside those of the two labels of points, the embeddings of a box's corners.
TOP_LEFT, BOTTOM_RIGHT = 2, 3


class Encoded(NamedTuple):
    """Prompts as the decoder reads them.

    Attributes:
      sparse: a token for each point, then one that is no point in sets without a box, then two
        for the corners of a box.
      real: True on tokens that count; None where all do.
      dense: what is added to the image's embedding: one map for all sets if none has a mask.
    """

    sparse: Float[Array, "b p n d"]
    real: Bool[Array, "b p n"] | None
    dense: Float[Array, "_b _p _h _w d"]


class FourierPosition(nn.Module):
    """Sines, then cosines, of random projections of (x, y); they are drawn once, never trained."""

    features: int
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, xy: Float[Array, "*b 2"]) -> Float[Array, "*b {self.features}"]:
        """Embed positions in [0, 1], or somewhat outside, in float32."""
        shape = (2, self.features // 2)
        matrix = self.param("gaussian_matrix", nn.initializers.normal(1.0), shape, self.param_dtype)
        matrix = lax.stop_gradient(matrix).astype(jnp.float32)
        # A rounded product would move points.
        angle = jnp.matmul(2 * xy.astype(jnp.float32) - 1, matrix, precision=lax.Precision.HIGHEST)
        angle *= 2 * math.pi
        return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], -1)


class MaskDownscaling(nn.Module):
    """Mask logits to the size and width of the image's embedding, a quarter of each side."""

    features: int
    channels: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b H W 1"]) -> Float[Array, "b h w {self.features}"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        for i, channels in enumerate((self.channels // 4, self.channels), 1):
            x = PatchEmbed(channels, 2, name=f"conv{i}", **dtypes)(x)
            x = layer_norm(f"norm{i}", epsilon=EPSILON, **dtypes)(x)
            x = nn.gelu(x, approximate=False)
        bias_init = torch_bias(self.channels)
        return Conv(
            self.features, 1, use_bias=True, kernel_init=torch_uniform, bias_init=bias_init,
            name="conv3", **dtypes,
        )(x)  # fmt: skip


class PromptEncoder(nn.Module):
    """Sets of prompts to tokens and to a map.

    Attributes:
      width: of the embeddings.
      image_size: pixels of a side of the model's input.
      grid: positions of a side of the image's embedding.
      mask_channels: between the convolutions of a mask.
    """

    width: int = 256
    image_size: int = 1024
    grid: int = 64
    mask_channels: int = 16
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    def setup(self):
        normal, one = nn.initializers.normal(1.0), (1, self.width)
        self.pe_layer = FourierPosition(self.width, self.param_dtype)
        self.point_embeddings = [
            self.param(f"point_embeddings_{i}", normal, one, self.param_dtype) for i in range(4)
        ]
        self.not_a_point = self.param("not_a_point_embed", normal, one, self.param_dtype)
        self.no_mask = self.param("no_mask_embed", normal, one, self.param_dtype)
        self.mask_downscaling = MaskDownscaling(
            self.width, self.mask_channels, self.dtype, self.param_dtype
        )

    def position(self) -> Float[Array, "{self.grid} {self.grid} {self.width}"]:
        """The embedding of the grid's own positions, in float32."""
        places = (jnp.arange(self.grid, dtype=jnp.float32) + 0.5) / self.grid
        return self.pe_layer(jnp.stack(jnp.meshgrid(places, places), -1))

    def __call__(self, prompts: Prompts) -> Encoded:
        """Encode.

        Raises:
          ValueError: points without labels, kinds for unequal numbers of sets, or masks of
            another size.
        """
        side = 4 * self.grid
        check_prompts(prompts, side)
        if self.is_initializing():
            # Parameters do not depend on the kinds that come first.
            self.mask_downscaling(jnp.zeros((1, side, side, 1), self.dtype))
            self.pe_layer(jnp.zeros(2))
        parts = self._points(prompts) + self._corners(prompts)
        tokens, real = (jnp.concatenate(x, 2) for x in zip(*parts, strict=True))
        everything = prompts.points_mask is None and prompts.boxes_mask is None
        return Encoded(
            tokens.astype(self.dtype), None if everything else real, self._dense(prompts)
        )

    def _points(self, prompts: Prompts) -> list[tuple[Array, Array]]:
        """Tokens of points and which are real."""
        if prompts.points is None:
            batch = 1 if prompts.masks is None else len(prompts.masks)
            count = (batch if prompts.boxes is None else len(prompts.boxes), prompts.sets, 0)
            return [(jnp.zeros((*count, self.width)), jnp.zeros(count, bool))]
        labels = prompts.labels[..., None]
        embedded = self.pe_layer((prompts.points + 0.5) / self.image_size)
        for label in (BACKGROUND, FOREGROUND):
            embedded += jnp.where(labels == label, self.point_embeddings[label], 0)
        embedded = jnp.where(labels == NOT_A_POINT, self.not_a_point, embedded)
        real = _or_all(prompts.points_mask, labels.shape[:3])
        parts = [(embedded, real)]
        if prompts.boxes is None or prompts.boxes_mask is not None:
            # The original fills sets up with one that is no point wherever a box could stand.
            filled = real.any(2, keepdims=True)
            if prompts.boxes_mask is not None:
                filled &= ~prompts.boxes_mask[..., None]
            none = jnp.broadcast_to(self.not_a_point, (*filled.shape, self.width))
            parts.append((none, filled))
        return parts

    def _corners(self, prompts: Prompts) -> list[tuple[Array, Array]]:
        """Tokens of boxes' corners and which are real."""
        if prompts.boxes is None:
            return []
        corners = prompts.boxes.reshape(*prompts.boxes.shape[:2], 2, 2)
        embedded = self.pe_layer((corners + 0.5) / self.image_size)
        embedded += jnp.concatenate([self.point_embeddings[i] for i in (TOP_LEFT, BOTTOM_RIGHT)])
        real = _or_all(prompts.boxes_mask, corners.shape[:2])
        return [(embedded, jnp.repeat(real[..., None], 2, -1))]

    def _dense(self, prompts: Prompts) -> Array:
        nothing = jnp.asarray(self.no_mask, self.dtype)[None, None, None]
        if prompts.masks is None:
            return nothing
        b, p, height, width = prompts.masks.shape
        embedded = self.mask_downscaling(prompts.masks.reshape(b * p, height, width, 1))
        embedded = embedded.reshape(b, p, *embedded.shape[1:])
        if prompts.masks_mask is None:
            return embedded
        return jnp.where(prompts.masks_mask[..., None, None, None], embedded, nothing)


def _or_all(mask: Array | None, shape: tuple) -> Array:
    return jnp.ones(shape, bool) if mask is None else mask


def check_prompts(prompts: Prompts, side: int) -> None:
    """Raise `ValueError` unless shapes fit each other, and masks are side × side."""
    points, labels, boxes, masks = prompts.points, prompts.labels, prompts.boxes, prompts.masks
    if (points is None) != (labels is None):
        raise ValueError(
            "points need labels, 1 for foreground and 0 for background, and labels points; got "
            f"{'labels' if points is None else 'points'} alone"
        )
    if points is not None and points.shape != (*labels.shape, 2):
        raise ValueError(
            "points must be (image, set, point, 2) and their labels (image, set, point); got "
            f"{points.shape} and {labels.shape}"
        )
    if boxes is not None and (boxes.ndim != 3 or boxes.shape[2] != 4):
        raise ValueError(f"boxes must be (image, set, 4), as x0, y0, x1, y1; got {boxes.shape}")
    if masks is not None and (masks.ndim != 4 or masks.shape[2:] != (side, side)):
        raise ValueError(
            f"masks must be (image, set, {side}, {side}), logits as the model returns them; got "
            f"{masks.shape}"
        )
    for kind, mask in (("points", prompts.points_mask), ("boxes", prompts.boxes_mask),
                       ("masks", prompts.masks_mask)):  # fmt: skip
        of = getattr(prompts, kind)
        wanted = None if of is None else of.shape[: 3 if kind == "points" else 2]
        if mask is not None and mask.shape != wanted:
            raise ValueError(
                f"{kind}_mask says which {kind} are real, and must be {wanted}; got {mask.shape}"
                if of is not None
                else f"{kind}_mask came without {kind}"
            )
    counts = {
        name: x.shape[:2] for name, x in (("points", points), ("boxes", boxes)) if x is not None
    }
    if masks is not None and masks.shape[1] != 1:  # one mask serves all sets
        counts["masks"] = masks.shape[:2]
    if len(set(counts.values())) > 1:
        raise ValueError(
            f"all kinds of prompts must be for the same images and sets; got {counts}: fill sets "
            "up, with masks of what is real"
        )

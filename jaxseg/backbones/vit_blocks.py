"""Blocks of plain vision transformers with decomposed relative positions (MViTv2, arXiv 2112.01526,
section 4.1), global or in windows: those of ViTDet and of Segment Anything's image encoder.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from jaxseg.nn.attention import MASKED
from jaxseg.nn.layers import layer_norm, zero_padding
from jaxseg.nn.vision import DropPath, GeluMlp, dense
from jaxseg.ops.resample import interpolation_matrix, source_positions
from jaxseg.ops.windows import extents, from_windows, to_windows
from jaxseg.typing import Array, Bool, DTypeLike, Float, Int

EPSILON = 1e-6
# Places of a grid whose attention to all others is computed at once; a larger grid's goes row by
# row: twelve heads of 64 × 64 places have 800 MB of scores, which is more than any cache holds.
AT_ONCE = 1024


class RelativeAttention(nn.Module):
    """Self-attention over a grid, with a bias for the rows and one for the columns between.

    Attributes:
      side: rows and columns that the tables of positions are made for; other grids read them
        resized. None is without relative positions.
    """

    num_heads: int
    side: int | None = None
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w d"], mask: Bool[Array, "b h w"] | None = None
    ) -> Float[Array, "b h w d"]:
        """Attend. With a mask each image attends to its own tokens only, and its tables are
        resized to its own extent."""
        b, h, w, width = x.shape
        heads = (b, h, w, self.num_heads, width // self.num_heads)
        dtypes = (self.dtype, self.param_dtype)
        q, k, v = (dense(width, f"{p}_proj", *dtypes)(x).reshape(heads) for p in "qkv")
        rows = columns = None
        if self.side is not None:
            sizes = None if mask is None else extents(mask)
            rows = self._relative("rel_pos_h", heads[-1], h, sizes, 0)
            columns = self._relative("rel_pos_w", heads[-1], w, sizes, 1)
        attend = attend_grid if h * w <= AT_ONCE else _row_by_row
        mixed = attend(q, k, v, rows, columns, mask)
        return dense(width, "out_proj", *dtypes)(mixed.reshape(x.shape))

    def _relative(self, name, features, length, sizes, axis):
        shape = (2 * self.side - 1, features)
        table = self.param(name, nn.initializers.zeros, shape, self.param_dtype)
        sizes = None if sizes is None else sizes[:, axis]
        return relative_positions(jnp.asarray(table), length, length, sizes).astype(self.dtype)


def attend_grid(
    q: Float[Array, "b h w m d"],
    k: Float[Array, "b i j m d"],
    v: Float[Array, "b i j m d"],
    rows: Float[Array, "_b h i d"] | None,
    columns: Float[Array, "_b w j d"] | None,
    mask: Bool[Array, "b i j"] | None,
) -> Float[Array, "b h w m d"]:
    """Attention of every place of a grid to all of another; softmax in float32.

    Args:
      rows, columns: embeddings of the distances between rows and between columns.
      mask: True on places that may be seen.
    """
    (b, h, w, m, d), (i, j) = q.shape, k.shape[1:3]
    scores = _scores(q, k, rows, columns)
    if mask is not None:
        scores = jnp.where(mask.reshape(b, 1, 1, i * j), scores, MASKED)
    weights = jax.nn.softmax(scores).astype(v.dtype)
    mixed = jnp.einsum("bmqn,bnmd->bqmd", weights, v.reshape(b, i * j, m, d))
    return mixed.reshape(b, h, w, m, d)


def _scores(q, k, rows, columns):
    """Scores of all places q for all places n, (b, m, q, n), in float32."""
    (b, h, w, m, d), (i, j) = q.shape, k.shape[1:3]
    scaled = q * d**-0.5
    if rows is None:
        return _products(scaled, k)
    # from the unscaled query
    by_row = jnp.einsum("bhwmd,bhid->bhwmi", q, rows)
    by_column = jnp.einsum("bhwmd,bwjd->bhwmj", q, columns)
    if i + j <= d:
        # As more channels of the product they need no array of scores that has a grid's two short
        # axes last, which a TPU would fill up to tiles of 8 × 128.
        own = [jnp.eye(i, dtype=k.dtype)[:, None], jnp.eye(j, dtype=k.dtype)[None]]
        own = jnp.concatenate([jnp.broadcast_to(x, (i, j, x.shape[-1])) for x in own], -1)
        own = jnp.broadcast_to(own[None, :, :, None], (*k.shape[:4], i + j))
        return _products(
            jnp.concatenate([scaled, by_row, by_column], -1), jnp.concatenate([k, own], -1)
        )
    scores = _products(scaled, k).reshape(b, m, h, w, i, j)
    scores += jnp.moveaxis(by_row, 3, 1)[..., None].astype(jnp.float32)
    scores += jnp.moveaxis(by_column, 3, 1)[..., None, :].astype(jnp.float32)
    return scores.reshape(b, m, h * w, i * j)


def _products(q, k):
    b, h, w, m, c = q.shape
    q, k = q.reshape(b, h * w, m, c), k.reshape(b, -1, m, c)
    return jnp.einsum("bqmc,bnmc->bmqn", q, k, preferred_element_type=jnp.float32)


def _row_by_row(q, k, v, rows, columns, mask):
    """The same with the scores of one row of the grid in memory at a time, going back, too."""

    @partial(jax.checkpoint, prevent_cse=False)
    def row(given):
        query, distances = given
        distances = None if distances is None else distances[:, None]
        return attend_grid(query[:, None], k, v, distances, columns, mask)[:, 0]

    by_row = (jnp.moveaxis(q, 1, 0), None if rows is None else jnp.moveaxis(rows, 1, 0))
    return jnp.moveaxis(lax.map(row, by_row), 0, 1)


def relative_positions(
    table: Float[Array, "_n d"], queries: int, keys: int, sizes: Int[Array, " b"] | None = None
) -> Float[Array, "_b {queries} {keys} d"]:
    """The embedding of every query's distance to every key along one axis.

    A table of another length than 2 · max(queries, keys) − 1 is resized linearly; the shorter
    axis is stretched to the longer.

    Args:
      sizes: how many positions of the axis each image has; its table is resized to that. Needs
        as many queries as keys.
    """
    i = np.arange(queries)[:, None] * max(keys / queries, 1.0)
    j = np.arange(keys)[None, :] * max(queries / keys, 1.0)
    index = (i - j + (keys - 1) * max(queries / keys, 1.0)).astype(int)
    return _fitted(table, max(queries, keys), sizes)[:, index]


def _fitted(table, length: int, sizes):
    """The table's embeddings of the offsets 1 − length, …, length − 1, for each image's size."""
    if sizes is None and len(table) == 2 * length - 1:
        return table[None]
    sizes = jnp.array([length]) if sizes is None else jnp.maximum(sizes, 1)
    middle = sizes[:, None] - 1
    index = middle + jnp.arange(1 - length, length, dtype=jnp.float32)
    positions = source_positions(index, 2 * middle + 1, len(table))
    matrix = interpolation_matrix(positions, len(table), "linear")
    # A rounded matrix product would shift embeddings even where nothing is resized.
    table = table.astype(jnp.float32)
    return jnp.einsum("bnl,ld->bnd", matrix, table, precision=lax.Precision.HIGHEST)


class Block(nn.Module):
    """Attention and a perceptron, each normalised before and added to its input.

    Attributes:
      window: side of the windows that attention stays in; None attends to the whole map.
      side: of the whole map that the tables of relative positions are made for (windows have
        tables of their own side).
      relative: with relative positions at all.
    """

    num_heads: int
    window: int | None = None
    side: int = 64
    relative: bool = True
    mlp_ratio: float = 4.0
    drop_path: float = 0.0
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w d"],
        mask: Bool[Array, "b h w"] | None = None,
        train: bool = False,
    ) -> Float[Array, "b h w d"]:
        """Transform a map."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        y = layer_norm("norm1", epsilon=EPSILON, **dtypes)(x)
        x = x + DropPath(self.drop_path)(self._attend(y, mask), train=train)
        y = layer_norm("norm2", epsilon=EPSILON, **dtypes)(x)
        y = GeluMlp(int(self.mlp_ratio * x.shape[-1]), **dtypes, name="mlp")(y)
        return x + DropPath(self.drop_path)(y, train=train)

    def _attend(self, x, mask):
        side = (self.window or self.side) if self.relative else None
        attention = RelativeAttention(
            self.num_heads, side, self.dtype, self.param_dtype, name="attn"
        )
        if self.window is None:
            return attention(x, mask)
        # What fills up windows is zero after the norm, and attended like any other token; so
        # must be what lies outside an image, or its windows would not be those it has alone.
        windows = to_windows(zero_padding(x, mask), self.window)
        mixed = attention(windows.reshape(-1, *windows.shape[2:]))
        return from_windows(mixed.reshape(windows.shape), *x.shape[1:3])

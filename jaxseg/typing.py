"""Shape annotations used at the borders of the package.

The letters stand for the same axis everywhere:

    b image      h w height, width     c channel            d width of the transformer
    n token      l level or layer      q query              t padded target
    k class      p sampling point      m prompt or mask     s text length
"""

from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key, Num, PyTree, Shaped, UInt8

__all__ = [
    "Array",
    "Bool",
    "DTypeLike",
    "Float",
    "Int",
    "Key",
    "Num",
    "PyTree",
    "Shaped",
    "UInt8",
]

"""Dropout (Srivastava et al., JMLR 2014) at half the random numbers of Linen's."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from jaxseg.typing import Array, Float

STEPS = 1 << 16


class Dropout(nn.Module):
    """Zero each element with a probability of `rate`, and scale what stays to the same mean.

    Sixteen random bits decide an element, which rounds the rate to a multiple of 2^-16; the
    scale is that of the rounded rate. Drawing the bits is most of what dropout costs.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"], *, train: bool) -> Float[Array, "*b d"]:
        """Drop where `train` (rng "dropout")."""
        dropped = round(self.rate * STEPS)
        if not 0 <= dropped <= STEPS:
            raise ValueError(f"a dropout rate is in [0, 1]; got {self.rate}")
        if not train or dropped == 0:
            return x
        if dropped == STEPS:
            return jnp.zeros_like(x)
        kept = random_words(self.make_rng("dropout"), x.shape) >= jnp.uint16(dropped)
        return jnp.where(kept, x * (STEPS / (STEPS - dropped)), 0).astype(x.dtype)


def random_words(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Uniform uint16 of a shape, two from each 32-bit draw (`jax.random.bits` takes one)."""
    *outer, last = shape
    pairs = jax.random.bits(key, (*outer, -(-last // 2)), jnp.uint32)
    return lax.bitcast_convert_type(pairs, jnp.uint16).reshape(*outer, -1)[..., :last]

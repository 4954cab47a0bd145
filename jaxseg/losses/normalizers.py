"""What sums of losses are divided by, counted over the whole global batch."""

from typing import NamedTuple

import jax.numpy as jnp

from jaxseg.typing import Array, Float, Int


class Normalizers(NamedTuple):
    """What sums are divided by: the objects of each image of the whole batch."""

    counts: Int[Array, " b"]

    @property
    def num_boxes(self) -> Float[Array, ""]:
        """All objects, at least 1."""
        return jnp.maximum(self.counts.sum().astype(jnp.float32), 1.0)

    @property
    def num_images(self) -> int:
        """Images of the whole batch."""
        return len(self.counts)

    def matched(self, num_queries: int) -> Float[Array, " b"]:
        """Pairs that matching makes in each image."""
        return jnp.minimum(self.counts, num_queries).astype(jnp.float32)

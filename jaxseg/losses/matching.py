"""Bipartite matching of predictions and objects, on the device (arXiv 2005.12872, section 3.1).

The padded form of a matching is one query index for each target slot, with a mask beside it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxseg.ops.assign import assign
from jaxseg.typing import Array, Bool, Float, Int


class Matching(NamedTuple):
    """Which query each target slot is matched to.

    Attributes:
      query: index of the query; 0 where there is no match.
      mask: True where the slot holds an object and a query was left for it.
    """

    query: Int[Array, "*b t"]
    mask: Bool[Array, "*b t"]


def match(cost: Float[Array, "q t"], mask: Bool[Array, " t"]) -> Matching:
    """The assignment of least cost, of min(q, number of objects) pairs.

    Args:
      cost: of matching query q with target t; empty slots may hold anything. As few pairs as
        can be have a cost that is not finite, and such costs cannot keep the algorithm from
        ending.
      mask: True on real targets.

    Under `jax.shard_map` pass `check_vma=False`: the loop's initial state is a constant.
    """
    q, t = cost.shape
    if q == 0 or t == 0:
        return Matching(jnp.zeros(t, int), jnp.zeros(t, bool))
    # Targets are rows, real ones first.
    order = jnp.argsort(~mask, stable=True)
    cost = _finite(cost.astype(jnp.float32), mask).T[order]
    # Targets beyond the queries take what is dearer than any query.
    cost = jnp.pad(cost, ((0, 0), (0, max(0, t - q))), constant_values=2 * cost.max() + 1)
    query = assign(cost, mask.sum())[jnp.argsort(order)]
    taken = mask & (query < q)
    return Matching(jnp.where(taken, query, 0), taken)


def match_cheapest(cost: Float[Array, "q t"], mask: Bool[Array, " t"]) -> Matching:
    """Each target takes its cheapest query; several may take the same. Arguments as in `match`."""
    query = jnp.argmin(jnp.where(jnp.isfinite(cost), cost, jnp.inf), 0)
    return Matching(jnp.where(mask, query, 0), mask)


def _finite(cost, mask):
    real = jnp.isfinite(cost) & mask
    low = jnp.min(cost, where=real, initial=jnp.inf)
    high = jnp.max(cost, where=real, initial=-jnp.inf)
    low, high = (jnp.where(jnp.isfinite(x), x, 0.0) for x in (low, high))
    spread = high - low
    # One pair that is not finite costs more than all that avoiding it can.
    worst = min(cost.shape) * spread + 1
    return jax.lax.stop_gradient(jnp.where(real, cost - low, jnp.where(mask, worst, 0)))

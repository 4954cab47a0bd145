"""How classes cost in the matching and are scored after it: one softmax, or many sigmoids."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxseg.losses.classification import sigmoid_focal, softmax_cross_entropy
from jaxseg.losses.normalizers import Normalizers
from jaxseg.typing import Array, Float, Int


@dataclasses.dataclass(frozen=True)
class SoftmaxClasses:
    """DETR's classes: one softmax with no-object as its last entry, down-weighted."""

    no_object_weight: float = 0.1

    def no_object(self, outputs: int) -> int:
        """The class of a query that is matched with nothing."""
        return outputs - 1

    def cost(self, logits: Float[Array, "q k"], labels: Int[Array, " t"]) -> Float[Array, "q t"]:
        """Minus the probability of each target's class."""
        return -jax.nn.softmax(logits.astype(jnp.float32))[:, labels]

    def loss(self, logits: Float[Array, "*b k"], classes: Int[Array, "*b"]) -> Float[Array, "*b"]:
        """Weighted cross-entropy of each query; `classes` is `no_object` where nothing is."""
        no_object = self.no_object(logits.shape[-1])
        weight = jnp.where(classes == no_object, self.no_object_weight, 1.0)
        return weight * softmax_cross_entropy(logits, classes)

    def normalizer(self, normalizers: Normalizers, num_queries: int) -> Float[Array, ""]:
        """Sum of the weights over all queries: matched ones count 1."""
        matched = normalizers.matched(num_queries)
        return (matched + (num_queries - matched) * self.no_object_weight).sum()


@dataclasses.dataclass(frozen=True)
class FocalClasses:
    """A sigmoid for each class, with the focal loss (Deformable DETR, arXiv 2010.04159, A.3)."""

    alpha: float = 0.25
    gamma: float = 2.0

    def no_object(self, outputs: int) -> int:
        """One past the last class: all targets of the query are 0."""
        return outputs

    def cost(self, logits: Float[Array, "q k"], labels: Int[Array, " t"]) -> Float[Array, "q t"]:
        """What the focal loss would change if the query took each target's class."""
        p = jax.nn.sigmoid(logits.astype(jnp.float32))
        # The originals' log of p + 1e-8, not the logits' own: matchings are theirs bit by bit.
        taken = self.alpha * (1 - p) ** self.gamma * -jnp.log(p + 1e-8)
        left = (1 - self.alpha) * p**self.gamma * -jnp.log(1 - p + 1e-8)
        return (taken - left)[:, labels]

    def loss(self, logits: Float[Array, "*b k"], classes: Int[Array, "*b"]) -> Float[Array, "*b"]:
        """Focal loss of each query, summed over classes."""
        wanted = jax.nn.one_hot(classes, logits.shape[-1])
        return sigmoid_focal(logits, wanted, self.alpha, self.gamma).sum(-1)

    def normalizer(self, normalizers: Normalizers, num_queries: int) -> Float[Array, ""]:
        """The number of objects."""
        del num_queries
        return normalizers.num_boxes


ClassScoring = SoftmaxClasses | FocalClasses

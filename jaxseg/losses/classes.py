"""How classes cost in the matching and are scored after it: a softmax, sigmoids, or tokens.

What targets want of a query's logits is a label each, or the tokens of a caption that name them.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxseg.losses.classification import sigmoid_focal, softmax_cross_entropy
from jaxseg.losses.normalizers import Normalizers
from jaxseg.structures import Targets
from jaxseg.typing import Array, Bool, Float, Int


class _Labels:
    """What classes have in common that are numbered by labels."""

    def wanted(self, targets: Targets) -> Int[Array, "b t"]:
        """The labels."""
        return targets.labels

    def assigned(
        self,
        logits: Float[Array, "b q k"],
        labels: Int[Array, "b t"],
        image: Int[Array, "b 1"],
        query: Int[Array, "b t"],
    ) -> Int[Array, "b q"]:
        """The class of each query; out of range, a query of `query` is no one's."""
        classes = jnp.full(logits.shape[:2], self.no_object(logits.shape[-1]))
        return classes.at[image, query].set(labels)

    def hits(self, logits: Float[Array, "b t k"], labels: Int[Array, "b t"]) -> Bool[Array, "b t"]:
        """Whether the likeliest class of each matched query is its target's."""
        return logits.argmax(-1) == labels

    def found(self, logits: Float[Array, "b q k"]) -> Bool[Array, "b q"]:
        """Queries whose likeliest class is not the last, as the originals count them."""
        return logits.argmax(-1) != logits.shape[-1] - 1


@dataclasses.dataclass(frozen=True)
class SoftmaxClasses(_Labels):
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
class FocalClasses(_Labels):
    """A sigmoid for each class, with the focal loss (Deformable DETR, arXiv 2010.04159, A.3)."""

    alpha: float = 0.25
    gamma: float = 2.0

    def no_object(self, outputs: int) -> int:
        """One past the last class: all targets of the query are 0."""
        return outputs

    def cost(self, logits: Float[Array, "q k"], labels: Int[Array, " t"]) -> Float[Array, "q t"]:
        """What the focal loss would change if the query took each target's class."""
        return focal_change(logits, self.alpha, self.gamma)[:, labels]

    def loss(self, logits: Float[Array, "*b k"], classes: Int[Array, "*b"]) -> Float[Array, "*b"]:
        """Focal loss of each query, summed over classes."""
        wanted = jax.nn.one_hot(classes, logits.shape[-1])
        return sigmoid_focal(logits, wanted, self.alpha, self.gamma).sum(-1)

    def normalizer(self, normalizers: Normalizers, num_queries: int) -> Float[Array, ""]:
        """The number of objects."""
        del num_queries
        return normalizers.num_boxes


@dataclasses.dataclass(frozen=True)
class TokenClasses:
    """A sigmoid for each token of a caption (Grounding DINO, arXiv 2303.05499, section 3.5).

    Logits of padding tokens are `ABSENT`, so they neither cost nor count.
    """

    alpha: float = 0.25
    gamma: float = 2.0

    def wanted(self, targets: Targets) -> Float[Array, "b t s"]:
        """1 on the tokens that name each target."""
        if targets.tokens is None:
            raise ValueError(
                "targets.tokens is None: classes are tokens of a caption here, so targets must say "
                "which ones name them (see data.prompts)"
            )
        return targets.tokens.astype(jnp.float32)

    def cost(self, logits: Float[Array, "q s"], tokens: Float[Array, "t s"]) -> Float[Array, "q t"]:
        """What the focal loss would change, in the mean over each target's tokens.

        It is not a number for a target that no token names, as in the original.
        """
        shares = tokens / tokens.sum(-1, keepdims=True)
        return focal_change(logits, self.alpha, self.gamma) @ shares.T

    def assigned(
        self,
        logits: Float[Array, "b q s"],
        tokens: Float[Array, "b t s"],
        image: Int[Array, "b 1"],
        query: Int[Array, "b t"],
    ) -> Float[Array, "b q s"]:
        """What each query should say; nothing where it is matched with nothing."""
        return jnp.zeros(logits.shape).at[image, query].set(tokens)

    def loss(
        self, logits: Float[Array, "b q s"], tokens: Float[Array, "b q s"]
    ) -> Float[Array, "b q"]:
        """Focal loss of each query, summed over tokens."""
        return sigmoid_focal(logits, tokens, self.alpha, self.gamma).sum(-1)

    def hits(
        self, logits: Float[Array, "b t s"], tokens: Float[Array, "b t s"]
    ) -> Bool[Array, "b t"]:
        """Whether the likeliest token of each matched query names its target."""
        best = logits.argmax(-1)[..., None]
        return jnp.take_along_axis(tokens, best, -1)[..., 0] > 0

    def found(self, logits: Float[Array, "b q s"]) -> Bool[Array, "b q"]:
        """Queries that say anything, more likely than not."""
        return logits.max(-1) > 0

    def normalizer(self, normalizers: Normalizers, num_queries: int) -> Float[Array, ""]:
        """The number of matched pairs, at least 1."""
        return jnp.maximum(normalizers.matched(num_queries).sum(), 1.0)


def focal_change(logits: Float[Array, "q k"], alpha: float, gamma: float) -> Float[Array, "q k"]:
    """What the focal loss of each output would change if it were to be 1 and not 0."""
    p = jax.nn.sigmoid(logits.astype(jnp.float32))
    # The originals' log of p + 1e-8, not the logits' own: matchings are theirs bit by bit.
    taken = alpha * (1 - p) ** gamma * -jnp.log(p + 1e-8)
    left = (1 - alpha) * p**gamma * -jnp.log(1 - p + 1e-8)
    return taken - left


ClassScoring = SoftmaxClasses | FocalClasses | TokenClasses

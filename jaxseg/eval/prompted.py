"""Classes that a model is told in captions: as many captions as it takes, and one answer."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxseg.data.captions import ClassPrompts, grouped
from jaxseg.models.grounding_dino.scoring import class_shares
from jaxseg.structures import Captions, Detections, Images
from jaxseg.typing import Array, Bool, Int, PyTree


def detect_classes(
    model: nn.Module,
    params: PyTree,
    images: Images,
    prompts: ClassPrompts,
    original_sizes: Int[Array, "b 2"],
    at_once: int = 4,
    every: bool = False,
) -> Detections:
    """What a model finds of all classes; labels are those of the prompts.

    Each image is asked with every caption, and the best of all answers are kept, as many as the
    model gives for one, or all of them. The model is called with `pairs` of image and caption, and
    its `detections` with how much each token counts for each class.

    Args:
      images: normalised.
      at_once: captions of one call of the model.
      every: keep all answers; a class that its caption does not name has a score of 0.
    """
    size = min(at_once, len(prompts.tokens))
    captions, tokens = grouped(prompts, size)

    def ask(group: tuple[Captions, Bool[Array, "c k s"]]) -> Detections:
        return _ask(model, params, images, original_sizes, *group)

    if len(tokens) == 1:
        found = ask(jax.tree.map(lambda x: jnp.asarray(x[0]), (captions, tokens)))
    else:
        parts = jax.lax.map(ask, jax.tree.map(jnp.asarray, (captions, tokens)))
        found = jax.tree.map(lambda x: jnp.concatenate(list(x), 1), parts)
    return found if every else _best(found, size * len(tokens))


def _ask(model, params, images, original_sizes, captions: Captions, tokens) -> Detections:
    """Answers to c captions: (b, c · q) detections, those of a caption side by side."""
    b, c = len(images.mask), len(tokens)
    image, caption = (x.ravel() for x in jnp.meshgrid(jnp.arange(b), jnp.arange(c), indexing="ij"))
    output = model.apply(
        {"params": params}, images, captions, train=False, pairs=jnp.stack([image, caption], -1)
    )
    sizes = jnp.asarray(original_sizes)[image]
    found = model.detections(output, sizes, class_shares(tokens)[caption])
    return jax.tree.map(lambda x: x.reshape(b, -1, *x.shape[2:]), found)


def _best(found: Detections, captions: int) -> Detections:
    """The best of the answers to some captions, as many as to one."""
    if captions == 1:
        return found
    scores, index = jax.lax.top_k(found.scores, found.scores.shape[1] // captions)
    return Detections(
        boxes=jnp.take_along_axis(found.boxes, index[..., None], 1),
        scores=scores,
        labels=jnp.take_along_axis(found.labels, index, 1),
    )

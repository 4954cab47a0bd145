"""A detector that is told what to look for, small enough to train in tests."""

import jax.numpy as jnp
from flax import linen as nn

from jaxseg.models.grounding_dino import class_detections
from jaxseg.structures import DetectorOutput, Features
from jaxseg.text.bert import Bert


class Told(nn.Module):
    """Looks at patches, and likens what it sees with each word of the caption."""

    # Runs ask about these; it has neither.
    backbone: nn.Module | None = None
    bert: nn.Module = Bert(num_layers=0)
    num_queries: int = 6
    canvas: str = "exact"
    stride = 32
    dtype = jnp.float32

    @nn.compact
    def __call__(self, images, captions, targets=None, train=False, *, pairs=None):
        b, h, w, _ = images.pixels.shape
        patches = images.pixels.reshape(b, h // 8, 8, w // 8, 8, 3).swapaxes(2, 3)
        memory = nn.relu(nn.Dense(16, name="patch")(patches.reshape(b, -1, 192)))
        words = nn.Embed(64, 16, name="words")(captions.ids % 64)
        own = captions.attend / captions.attend.sum(-1, keepdims=True)
        words, mask = own @ words, captions.mask
        if pairs is not None:
            memory, words, mask = memory[pairs[:, 0]], words[pairs[:, 1]], mask[pairs[:, 1]]
        query = nn.Embed(self.num_queries, 16, name="query_embed")(jnp.arange(self.num_queries))
        weights = nn.softmax(jnp.einsum("qd,bnd->bqn", query, memory))
        states = nn.LayerNorm(name="norm")(query + jnp.einsum("bqn,bnd->bqd", weights, memory))
        logits = jnp.einsum("bqd,bsd->bqs", states, words)
        return DetectorOutput(
            logits=jnp.where(mask[:, None], logits, -1e4)[None],
            boxes=nn.sigmoid(nn.Dense(4, name="bbox_embed")(states))[None],
            states=states[None],
            memory=memory,
            features=Features((), ()),
            position=jnp.zeros_like(memory),
        )

    def detections(self, output, original_sizes, classes):
        return class_detections(output, classes, original_sizes, 5)

"""Detectors small enough to train in tests, with batches drawn from (seed, step)."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxseg.backbones.resnet import ResNet
from jaxseg.losses.criterion import SetCriterion
from jaxseg.models.detr import Detr
from jaxseg.models.detr.decoder import Decoder
from jaxseg.models.detr.encoder import Encoder
from jaxseg.nn.layers import GroupNorm
from jaxseg.nn.position import SinePosition
from jaxseg.params import abstract_inputs, flatten
from jaxseg.structures import Batch, Captions, DetectorOutput, Features, Images, Targets
from jaxseg.train.optim import Ema, Optimizer
from jaxseg.train.schedule import Schedule
from jaxseg.train.state import initial_state
from jaxseg.train.step import make_step
from tests.quick import quick_jit

CLASSES, SLOTS, SIZE = 3, 4, 32


def small_detr(dropout=0.1, **fields):
    layers = {"num_heads": 2, "feedforward": 32, "dropout": dropout}
    backbone = ResNet(depths=(1,), bottleneck=False, stages=(0,), norm=GroupNorm)
    return Detr(
        backbone=backbone,
        encoder=Encoder(1, **layers),
        decoder=Decoder(2, **layers),
        position=SinePosition(16),
        num_classes=CLASSES,
        num_queries=6,
        width=16,
        **fields,
    )


class Glance(nn.Module):
    """Patches, one attention and two heads: a detector that compiles in a moment."""

    dropout: float = 0.1
    num_classes: int = CLASSES

    @nn.compact
    def __call__(self, images, targets=None, train=False):
        b, h, w, _ = images.pixels.shape
        patches = images.pixels.reshape(b, h // 8, 8, w // 8, 8, 3).swapaxes(2, 3)
        memory = nn.Dense(16, name="patch")(patches.reshape(b, -1, 192))
        memory = nn.Dropout(self.dropout)(nn.relu(memory), deterministic=not train)
        query = nn.Embed(6, 16, name="query_embed")(jnp.arange(6))
        weights = nn.softmax(jnp.einsum("qd,bnd->bqn", query, memory))
        states = query + jnp.einsum("bqn,bnd->bqd", weights, memory)
        states = nn.LayerNorm(name="norm")(states)[None]
        return DetectorOutput(
            logits=nn.Dense(self.num_classes + 1, name="class_embed")(states),
            boxes=nn.sigmoid(nn.Dense(4, name="bbox_embed")(states)),
            states=states,
            memory=memory,
            features=Features((), ()),
            position=jnp.zeros_like(memory),
        )


def draw_batch(seed, step, rows=8, size=SIZE, first_row=0, count=None):
    """Rows `first_row` on of the batch of a step; all of them for `count=None`."""
    rng = np.random.default_rng((seed, step))
    pixels = rng.integers(0, 256, (rows, size, size, 3), np.uint8)
    mask = np.ones((rows, size, size), bool)
    centre, extent = rng.uniform(0.3, 0.7, (2, rows, SLOTS, 2))
    boxes = np.concatenate([centre, extent / 2], -1).astype(np.float32)
    objects = np.arange(SLOTS) < rng.integers(0, SLOTS + 1, (rows, 1))
    labels = rng.integers(0, CLASSES, (rows, SLOTS)).astype(np.int32)
    sizes = np.full((rows, 2), size, np.int32)
    index = (np.arange(rows) + rows * step).astype(np.int32)
    whole = Batch(
        images=Images(pixels, mask),
        targets=Targets(labels, boxes, objects),
        index=index,
        sizes=sizes,
        original_sizes=sizes,
        mask=np.ones(rows, bool),
    )
    last = rows if count is None else first_row + count
    return jax.tree.map(lambda x: x[first_row:last], whole)


class Batches:
    """A loader of drawn batches; `part` of `parts` processes."""

    dropped = 0

    def __init__(self, rows=8, seed=0, part=0, parts=1, sizes=(SIZE,)):
        self.rows, self.seed, self.sizes = rows, seed, sizes
        self.part, self.count = part, rows // parts

    def iterate(self, start_step, num_steps=None):
        for step in range(start_step, start_step + num_steps):
            size = self.sizes[step % len(self.sizes)]
            first = self.part * self.count
            yield draw_batch(self.seed, step, self.rows, size, first, self.count)


def draw_told_batch(seed, step, rows=8, tokens=8):
    """The same with captions of two phrases, of which the labels 0 and 1 are the names."""
    batch = draw_batch(seed, step, rows)
    rng = np.random.default_rng((seed, step, 1))
    phrase = np.asarray([0, 1, 1, 1, 2, 2, 2, 3])
    captions = Captions(
        ids=rng.integers(5, 90, (rows, tokens)).astype(np.int32),
        mask=np.ones((rows, tokens), bool),
        attend=np.tile(phrase[:, None] == phrase, (rows, 1, 1)),
        positions=np.tile(np.asarray([0, 0, 1, 2, 0, 1, 2, 0], np.int32), (rows, 1)),
    )
    labels = batch.targets.labels % 2
    named = phrase == labels[..., None] + 1
    targets = batch.targets.replace(labels=labels, tokens=named)
    return batch.replace(captions=captions, targets=targets)


def init_params(model, seed=0):
    images = Images(jnp.zeros((1, SIZE, SIZE, 3)), jnp.ones((1, SIZE, SIZE), bool))
    captions = abstract_inputs(model)[1:]
    captions = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), captions)
    return model.init(jax.random.key(seed), images, *captions)["params"]


class Parts:
    """Model, optimizer, state and step of a small run."""

    def __init__(
        self, model=None, num_steps=20, ema=None, seed=0, optimizer=None, criterion=None, **options
    ):
        self.model = Glance() if model is None else model
        self.ema = Ema(ema)
        config = optimizer or Optimizer(learning_rate=1e-3)
        paths = list(flatten(jax.eval_shape(lambda: init_params(self.model))))
        self.trainable = config.trainable(paths)
        self.optimizer = config.build(Schedule().build(num_steps), paths)
        self.seed = seed
        criterion = criterion or SetCriterion()
        self.step = make_step(
            self.model, criterion, self.optimizer, self.trainable, ema=self.ema, **options
        )

    def init_params(self):
        return init_params(self.model, self.seed)

    def make_state(self, params):
        return initial_state(params, self.optimizer, self.trainable, self.ema, self.seed)

    def state(self):
        return quick_jit(lambda: self.make_state(self.init_params()))()

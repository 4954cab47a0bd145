"""Detectors with anchors small enough for tests, their weights and targets."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.losses.criterion import FirstStage, FocalClasses, SetCriterion
from jaxseg.models.dab_deformable_detr import dab_deformable_detr
from jaxseg.models.dab_detr import dab_detr
from jaxseg.models.deformable_detr import deformable_detr
from jaxseg.models.dino import dino
from jaxseg.models.dn_detr import encoder_only
from jaxseg.structures import Targets
from tests import weights
from tests.models.test_detr import images, noise

SMALL = {
    "depth": 18, "stem": 8, "width": 64, "num_heads": 4, "feedforward": 32, "encoder_layers": 1,
    "decoder_layers": 2, "num_queries": 12, "num_classes": 4,
}  # fmt: skip
BUILDERS = {
    "deformable": functools.partial(deformable_detr, dropout=0.0),
    "refine": functools.partial(deformable_detr, dropout=0.0, refine=True),
    "two_stage": functools.partial(deformable_detr, dropout=0.0, refine=True, two_stage=True),
    "dab": dab_detr,
    "dab_patterns": functools.partial(dab_detr, num_patterns=2),
    "dab_deformable": dab_deformable_detr,
    "dn": functools.partial(dab_detr, denoising=True),
    "dn_deformable": functools.partial(dab_deformable_detr, denoising=True),
    "dn_encoder_only": functools.partial(encoder_only, num_patterns=2),
    "dino": functools.partial(dino, dn_number=50),
    "dino_5scale": functools.partial(dino, dn_number=50, num_levels=5),
    "dino_pure": functools.partial(dino, dn_number=50, selection="pure"),
    "dino_static": functools.partial(dino, dn_number=0, selection="static"),
    "dino_unshared": functools.partial(dino, dn_number=50, shared_heads=False),
}
CRITERION = SetCriterion(
    classes=FocalClasses(), giou_epsilon=1e-6, first_stage=FirstStage("interm"), denoising=True
)


def small(name, **fields):
    model = BUILDERS[name](**SMALL | fields)
    # as few blocks as there are kinds of them: compiling is what these tests spend time on
    return model.clone(backbone=model.backbone.clone(depths=(1, 1, 1, 1)))


def init(model):
    return weights.draw(model, images(noise(128, 128, 0), canvas=(128, 128)))


def some_targets(*counts, slots=5, seed=0):
    rng = np.random.default_rng(seed)
    b = len(counts)
    labels = rng.integers(0, 4, (b, slots))
    boxes = rng.uniform(0.2, 0.6, (b, slots, 4)).astype(np.float32)
    mask = np.arange(slots) < np.asarray(counts)[:, None]
    return jax.tree.map(jnp.asarray, Targets(labels, boxes, mask))

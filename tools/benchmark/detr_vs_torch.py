"""DETR-R50 or Deformable DETR against Hugging Face's PyTorch model: the same weights, side by side.

python tools/benchmark/detr_vs_torch.py [--model deformable_detr] [--threads 2] [--repeats 5]
    [--profile]

Prints the ratio of PyTorch's time to ours (above 1: ours is faster), each the best of several
runs taken in turn, for the forward pass at 800 × 1066 (batch 1 and 4) and for a training step
at batch 2 with eight objects an image; with --profile, what our step spends its time on. Needs
the extra `test`; nothing is downloaded.

On two cores of a virtual x86 server (AVX-512, jax 0.10.2, torch 2.13.0), otherwise idle:

    forward, batch 1          1.56
    forward, batch 4          2.08
    training step, batch 2    0.81

and of Deformable DETR 2.30 and 2.69 forward. On another such server, where PyTorch is slower (AMD's
Zen 5), Deformable DETR's are 5.97, 5.40 and, for the training step, 2.02.

Where DETR's training step spends its work: matrix products 37 % (forward 18, backward 18),
convolutions 13 % (8 and 6), the rest (dropout, softmax, normalisation, optimiser) 50 %. Kernels of
convolutions learn by products of windows (`jaxseg.ops.conv`), at half the time of XLA's own
gradient; that of a 1×1 convolution is a product whose transposed factor XLA lays out anew, and
slowly. Tried without gain beyond noise: barriers that keep the compiler from fusing cotangents,
its own flags, products in batches of rows. Dropout's random bits, halved, were worth a tenth of a
second a layer. Huge pages (glibc.malloc.hugetlb=1) help both sides.
"""

import argparse
import dataclasses
import os
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import torch
from transformers import (
    DeformableDetrConfig,
    DeformableDetrForObjectDetection,
    DetrConfig,
    DetrForObjectDetection,
    ResNetConfig,
)
from turns import report
from work_shares import shares

from jaxseg.losses.criterion import SetCriterion
from jaxseg.models import build
from jaxseg.params import flatten
from jaxseg.structures import Batch, Images, Targets
from jaxseg.train.optim import Ema, Optimizer
from jaxseg.train.state import initial_state
from jaxseg.train.step import make_step
from jaxseg_configs.deformable_detr import _recipe as deformable_recipe
from jaxseg_configs.detr import _recipe as detr_recipe
from jaxseg_convert_torch import detect_table, load_state_dict

HEIGHT, WIDTH, OBJECTS = 800, 1066, 8


@dataclasses.dataclass(frozen=True)
class Model:
    """A model of both sides, and how ours is trained."""

    config: type
    theirs: type
    stages: tuple[str, ...]  # of the backbone, that the transformer reads
    ours: Callable
    criterion: SetCriterion
    optimizer: Optimizer


MODELS = {
    "detr": Model(
        DetrConfig,
        DetrForObjectDetection,
        ("stage4",),
        partial(build, "detr.r50", dropout=0.1),
        SetCriterion(),
        detr_recipe.OPTIMIZER,
    ),
    "deformable_detr": Model(
        DeformableDetrConfig,
        DeformableDetrForObjectDetection,
        ("stage2", "stage3", "stage4"),
        partial(build, "deformable_detr.r50", dropout=0.1),
        deformable_recipe.CRITERION,
        deformable_recipe.OPTIMIZER,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", choices=MODELS, default="detr")
    parser.add_argument("--threads", type=int, help="of both (default: all cores)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--profile", action="store_true", help="of our training step")
    arguments = parser.parse_args()
    if arguments.threads:
        # XLA's pool has as many threads as it may use cores, and is made at the first use.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.threads])
        torch.set_num_threads(arguments.threads)
    model = MODELS[arguments.model]
    theirs, ours, params = pair(model)
    for batch in (1, 4):
        report(f"forward, batch {batch}", *forward(theirs, ours, params, batch), arguments.repeats)
    run_ours, run_theirs = training(model, theirs, ours, params, 2)
    report("training step, batch 2", run_ours, run_theirs, arguments.repeats)
    if arguments.profile:
        print("our training step, shares of the work:")
        for kind, share in shares(run_ours.program, run_ours).items():
            print(f"  {kind:28} {100 * share:5.1f} %")


def pair(model: Model):
    """Hugging Face's model with random weights, ours, and the converted weights."""
    config = model.config(
        use_timm_backbone=False,
        backbone_config=ResNetConfig(out_features=list(model.stages)),
        num_labels=91,
        auxiliary_loss=True,  # as the papers' recipes and ours
    )
    theirs, ours = model.theirs(config).eval(), model.ours()
    state = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    params = load_state_dict(detect_table(state), state, ours)
    return theirs, ours, jax.tree.map(jnp.asarray, params)


def inputs(batch: int):
    """The same normalised pixels for both."""
    pixels = np.random.default_rng(0).normal(size=(batch, HEIGHT, WIDTH, 3)).astype(np.float32)
    images = Images(jnp.asarray(pixels), jnp.ones(pixels.shape[:3], bool))
    return images, torch.tensor(pixels).permute(0, 3, 1, 2).contiguous()


def forward(theirs, ours, params, batch):
    """Two functions without arguments that each do one forward pass; they agree."""
    images, pixels = inputs(batch)
    apply = jax.jit(lambda params, images: ours.apply({"params": params}, images))

    def run_ours():
        return jax.block_until_ready(apply(params, images))

    @torch.no_grad()
    def run_theirs():
        return theirs(pixel_values=pixels)

    gap = np.abs(np.asarray(run_ours().boxes[-1]) - run_theirs().pred_boxes.numpy()).max()
    print(f"batch {batch}: largest difference of a box coordinate {gap:.1e}")
    return run_ours, run_theirs


def training(model, theirs, ours, params, batch):
    """Two functions that each take one step of the paper's recipe on the same targets.

    The stem and the first stage are constant in both, the rest of the backbone is trained.
    """
    images, pixels = inputs(batch)
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 91, (batch, OBJECTS))
    boxes = rng.uniform(0.2, 0.5, (batch, OBJECTS, 4)).astype(np.float32)
    targets = Targets(
        jnp.asarray(labels, jnp.int32), jnp.asarray(boxes), jnp.ones(labels.shape, bool)
    )
    return our_step(model, ours, params, images, targets), their_step(theirs, pixels, labels, boxes)


def our_step(recipe: Model, model, params, images: Images, targets: Targets):
    """A function that takes one step of `jaxseg train`."""
    b, h, w = images.mask.shape
    sizes = jnp.tile(jnp.asarray([[h, w]]), (b, 1))
    batch = Batch(images, targets, jnp.arange(b), sizes, sizes, jnp.ones(b, bool))
    paths = list(flatten(params))
    trainable = recipe.optimizer.trainable(paths)
    optimizer = recipe.optimizer.build(lambda step: 1.0, paths)
    # The pixels are standardised already.
    step = make_step(
        model, recipe.criterion, optimizer, trainable, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
    )
    # A donated buffer is gone, and the forward benchmark's weights are still wanted.
    params = jax.tree.map(jnp.copy, params)
    held = {"state": initial_state(params, optimizer, trainable, Ema(), seed=0)}
    compiled = jax.jit(step, donate_argnums=0).lower(held["state"], batch).compile()

    def run():
        held["state"], measured = compiled(held["state"], batch)
        return jax.block_until_ready((held["state"], measured))

    run.program = compiled
    return run


def their_step(model, pixels, labels, boxes):
    """A function that takes one step of PyTorch's model with the same parameters trained.

    Hugging Face looks for names that its own ResNet does not have and so freezes the whole
    backbone, whose gradient would then cost PyTorch nothing.
    """
    rates = {1e-4: [], 1e-5: []}
    for name, parameter in model.named_parameters():
        backbone = ".backbone." in name
        trained = not backbone or any(f".stages.{i}." in name for i in (1, 2, 3))
        parameter.requires_grad_(trained)
        if trained:
            rates[1e-5 if backbone else 1e-4].append(parameter)
    groups = [{"params": found, "lr": rate} for rate, found in rates.items()]
    adamw = torch.optim.AdamW(groups, weight_decay=1e-4)
    annotations = [
        {"class_labels": torch.tensor(label), "boxes": torch.tensor(box)}
        for label, box in zip(labels, boxes, strict=True)
    ]

    def run():
        model.train()
        adamw.zero_grad()
        model(pixel_values=pixels, labels=annotations).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        adamw.step()

    return run


if __name__ == "__main__":
    main()

"""DETR-R50 against Hugging Face's PyTorch model: the same weights and input, side by side.

python tools/benchmark/detr_vs_torch.py [--threads 2] [--repeats 5]

Prints the ratio of PyTorch's time to ours (above 1: ours is faster), each the best of several
runs taken in turn, for the forward pass at 800 × 1066 (batch 1 and 4) and for a training step
at batch 2 with eight objects an image. Needs the extra `test`; nothing is downloaded.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

from jaxseg.losses.criterion import SetCriterion
from jaxseg.models import build
from jaxseg.structures import Images, Targets
from jaxseg_convert_torch import detect_table, load_state_dict

HEIGHT, WIDTH, OBJECTS = 800, 1066, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    theirs, ours, params = models()
    for batch in (1, 4):
        report(f"forward, batch {batch}", *forward(theirs, ours, params, batch), arguments.repeats)
    report("training step, batch 2", *training(theirs, ours, params, 2), arguments.repeats)


def models():
    """Hugging Face's model with random weights, ours, and the converted weights."""
    backbone = ResNetConfig(out_features=["stage4"])
    config = DetrConfig(use_timm_backbone=False, backbone_config=backbone, num_labels=91)
    theirs = DetrForObjectDetection(config).eval()
    ours = build("detr.r50", dropout=0.1)
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


def training(theirs, ours, params, batch):
    """Two functions that each do loss, gradients, clipping and AdamW on the same targets."""
    images, pixels = inputs(batch)
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 91, (batch, OBJECTS))
    boxes = rng.uniform(0.2, 0.5, (batch, OBJECTS, 4)).astype(np.float32)
    mask = jnp.ones((batch, OBJECTS), bool)
    targets = Targets(jnp.asarray(labels), jnp.asarray(boxes), mask)
    optimizer = optax.chain(optax.clip_by_global_norm(0.1), optax.adamw(1e-4, weight_decay=1e-4))
    criterion = SetCriterion()

    def loss(params, key):
        rngs = {"dropout": key}
        output = ours.apply({"params": params}, images, train=True, rngs=rngs)
        return criterion(output, targets).total

    @jax.jit
    def step(params, state, key):
        value, gradients = jax.value_and_grad(loss)(params, key)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, value

    state = optimizer.init(params)

    def run_ours():
        return jax.block_until_ready(step(params, state, jax.random.key(0)))

    annotations = [
        {"class_labels": torch.tensor(label), "boxes": torch.tensor(box)}
        for label, box in zip(labels, boxes, strict=True)
    ]
    adamw = torch.optim.AdamW(theirs.parameters(), lr=1e-4, weight_decay=1e-4)

    def run_theirs():
        theirs.train()
        adamw.zero_grad()
        theirs(pixel_values=pixels, labels=annotations).loss.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.1)
        adamw.step()

    return run_ours, run_theirs


def report(name: str, run_ours, run_theirs, repeats: int) -> None:
    """Time the two in turn, after a first run of each (ours compiles in it)."""
    times = {run_ours: [], run_theirs: []}
    for run in times:
        run()
    for _ in range(repeats):
        for run, taken in times.items():
            start = time.perf_counter()
            run()
            taken.append(time.perf_counter() - start)
    ours, theirs = min(times[run_ours]), min(times[run_theirs])
    print(f"{name}: ratio {theirs / ours:.2f} (PyTorch {theirs:.2f} s, ours {ours:.2f} s)")


if __name__ == "__main__":
    main()

"""A training step of the small DINO beside the original's, and what this CPU allows.

python tools/benchmark/dino_step.py [--original FOLDER] [--repeats 10] [--profile]

The step is that of `jaxseg train dino/bccd_reference`: four images of 320 × 240, about ten objects
each, denoising and all losses. FOLDER is a checkout of github.com/IDEA-Research/DINO, whose code
then takes steps of the same configuration on the same images in turn with ours
(`original_dino.py`). Prints both times and their ratio, the measured rates of float32 products of
2048 × 2048, and the fraction of the better rate that the step's own products and convolutions
reach (a few per cent of them are rows that fill up blocks). With --profile, what the step spends
its time on. Needs the extra `test`; nothing is downloaded.

On two cores of a virtual x86 server (AMD Zen 5, AVX-512, jax 0.10.2, torch 2.13.0), otherwise
idle:

    products of 2048³: PyTorch 229, XLA 432 GFLOP/s
    a step: 0.553 s, 7.2 images/s
    the original's: 0.687 s; ratio 1.24
    its products: 93.2 GFLOP, 39 % of the roofline

On another, whose products of PyTorch ran at 322 and of XLA at 252 GFLOP/s, a step took 1.188 s and
the original's 1.172.

Products are not the measure of a step: the original took 0.975 s on another machine whose products
ran at 89 GFLOP/s.
"""

import argparse
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import torch
from arithmetic import operations
from original_dino import original_step
from work_shares import shares

from jaxseg.ops.images import normalize
from jaxseg.parallel.shard import global_batch
from jaxseg.structures import Batch
from jaxseg.train.configs import load_config
from jaxseg.train.overrides import apply_overrides
from jaxseg.train.session import prepare

SIDE = 2048
SHAPES = "synthetic:shapes?size=240&objects=20&classes=3&count=64"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--original", metavar="FOLDER", help="a checkout of the original")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    run = step()
    functions = {"torch": torch_product(), "xla": xla_product(), "step": run}
    if arguments.original:
        functions["original"] = original_step(arguments.original, *as_original(run.batch))
    times = {name: [] for name in functions}
    for function in functions.values():
        function()
    for _ in range(arguments.repeats):
        for name, function in functions.items():
            times[name].append(seconds(function))
    rates = {name: 2 * SIDE**3 / min(times[name]) / 1e9 for name in ("torch", "xla")}
    best = min(times["step"])
    work = run.operations / 1e9
    print(f"products of {SIDE}³: PyTorch {rates['torch']:.0f}, XLA {rates['xla']:.0f} GFLOP/s")
    print(f"a step: {best:.3f} s, {4 / best:.1f} images/s")
    if arguments.original:
        theirs = min(times["original"])
        print(f"the original's: {theirs:.3f} s; ratio {theirs / best:.2f}")
    fraction = work / best / max(rates.values())
    print(f"its products: {work:.1f} GFLOP, {100 * fraction:.0f} % of the roofline")
    if arguments.profile:
        for kind, share in shares(run.program, run).items():
            print(f"  {kind:28} {100 * share:5.1f} %")


def step() -> Callable:
    """A function that takes one step; its `program` is the compiled one, of its `batch`."""
    changes = [f"data.train={SHAPES}", "data.val=none"]
    session = prepare(apply_overrides(load_config("dino/bccd_reference"), changes))
    batch = global_batch(session.loader.batch(0), session.mesh)
    with jax.set_mesh(session.mesh):
        held = {"state": session.create_state()}
        traced = jax.jit(session.step, donate_argnums=0).trace(held["state"], batch)
        program = traced.lower().compile()

    def run():
        held["state"], report = program(held["state"], batch)
        jax.block_until_ready((held["state"], report))

    run.program, run.batch = program, batch
    run.operations = operations(traced.jaxpr.jaxpr)
    return run


def as_original(batch: Batch) -> tuple[np.ndarray, list[dict]]:
    """Pixels and targets of a batch as the original takes them."""
    targets = jax.tree.map(np.asarray, batch.targets)
    listed = [
        {"labels": labels[mask].astype(np.int64), "boxes": boxes[mask]}
        for labels, boxes, mask in zip(targets.labels, targets.boxes, targets.mask, strict=True)
    ]
    return np.array(normalize(batch.images).pixels), listed


def torch_product() -> Callable:
    a, b = torch.randn(SIDE, SIDE), torch.randn(SIDE, SIDE)
    return lambda: a @ b


def xla_product() -> Callable:
    a, b = (jax.random.normal(jax.random.key(i), (SIDE, SIDE)) for i in range(2))
    product = jax.jit(jnp.matmul)
    return lambda: jax.block_until_ready(product(a, b))


def seconds(function: Callable) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()

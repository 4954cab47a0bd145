"""A training step of the small DINO against what this CPU's matrix products allow.

python tools/benchmark/dino_step.py [--repeats 10] [--profile]

The step is that of `jaxseg train dino/bccd_reference`: four images of 320 × 240, about ten objects
each, denoising and all losses. Prints its time, the measured rate of float32 products of
2048 × 2048 in PyTorch and in XLA, and the fraction of the better rate that the step's own
arithmetic reaches. The original PyTorch code took 0.975 s a step of the same configuration on a
machine whose products ran at 89 GFLOP/s; the ratio is that time, scaled to this machine's
PyTorch products, over ours. With --profile, what the step spends its time on. Needs the extra
`test`; nothing is downloaded.

On two cores of a virtual x86 server (AVX-512, jax 0.10.2, torch 2.13.0), otherwise idle:

    products of 2048³: PyTorch 254, XLA 274 GFLOP/s
    a step: 1.264 s, 3.2 images/s; ratio 0.27
    its arithmetic: 95.7 GFLOP, 28 % of the roofline

A third of the work is the backbone's backward pass, where XLA has no tuned CPU kernels for the
gradients of a convolution (see `detr_vs_torch.py`); the encoder's deformable attention is
another fifth.
"""

import argparse
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import torch
from work_shares import shares

from jaxseg.parallel.shard import global_batch
from jaxseg.train.configs import load_config
from jaxseg.train.overrides import apply_overrides
from jaxseg.train.session import prepare

SIDE = 2048
ORIGINAL_SECONDS, ORIGINAL_GFLOPS = 0.975, 89.0
SHAPES = "synthetic:shapes?size=240&objects=20&classes=3&count=64"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    run = step()
    times = {"torch": [], "xla": [], "step": []}
    functions = {"torch": torch_product(), "xla": xla_product(), "step": run}
    for function in functions.values():
        function()
    for _ in range(arguments.repeats):
        for name, function in functions.items():
            times[name].append(seconds(function))
    rates = {name: 2 * SIDE**3 / min(times[name]) / 1e9 for name in ("torch", "xla")}
    best = min(times["step"])
    work = run.program.cost_analysis()["flops"] / 1e9
    allowed = ORIGINAL_SECONDS * ORIGINAL_GFLOPS / rates["torch"]
    print(f"products of {SIDE}³: PyTorch {rates['torch']:.0f}, XLA {rates['xla']:.0f} GFLOP/s")
    print(f"a step: {best:.3f} s, {4 / best:.1f} images/s; ratio {allowed / best:.2f}")
    fraction = work / best / max(rates.values())
    print(f"its arithmetic: {work:.1f} GFLOP, {100 * fraction:.0f} % of the roofline")
    if arguments.profile:
        for kind, share in shares(run.program, run).items():
            print(f"  {kind:28} {100 * share:5.1f} %")


def step() -> Callable:
    """A function that takes one step; its `program` is the compiled one."""
    changes = [f"data.train={SHAPES}", "data.val=none"]
    session = prepare(apply_overrides(load_config("dino/bccd_reference"), changes))
    batch = global_batch(session.loader.batch(0), session.mesh)
    with jax.set_mesh(session.mesh):
        held = {"state": session.create_state()}
        program = jax.jit(session.step, donate_argnums=0).lower(held["state"], batch).compile()

    def run():
        held["state"], report = program(held["state"], batch)
        jax.block_until_ready((held["state"], report))

    run.program = program
    return run


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

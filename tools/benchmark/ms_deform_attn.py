"""Multi-scale deformable attention against PyTorch's `grid_sample`: the bare operation, on CPU.

python tools/benchmark/ms_deform_attn.py [--threads 2] [--repeats 7] [--forms blocked reference]

Prints the ratio of PyTorch's time to ours (above 1: ours is faster), each the best of several
runs taken in turn, for the forward pass and for the forward pass with all gradients. PyTorch's
side does what the official implementation without CUDA does: one `grid_sample` a level. Needs
the extra `test`; nothing is downloaded.

On two cores of a virtual x86 server (AVX-512, jax 0.10.2, torch 2.13.0), otherwise idle, `blocked`:

                                     forward   gradient
    decoder, 900 queries                3.2       2.0
    encoder, 22 223 queries             8.8       3.0
    small decoder, 4 × 200 queries      2.1       1.5
    small encoder, 4 × 1600 queries     3.2       2.8
"""

import argparse
import os
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch.nn.functional import grid_sample

from jaxseg.kernels.ms_deform_attn import IMPLEMENTATIONS, ms_deform_attn

# One image of 800 × 1333 pixels; four small canvases, as a detector trains on a CPU.
LARGE = ((100, 167), (50, 84), (25, 42), (13, 21))
SMALL = ((30, 40), (15, 20), (8, 10), (4, 5))
# (images, maps, queries, heads, width of a head, points)
CASES = {
    "decoder, 900 queries": (1, LARGE, 900, 8, 32, 4),
    "encoder, 22 223 queries": (1, LARGE, 22223, 8, 32, 4),
    "small decoder, 4 × 200 queries": (4, SMALL, 200, 8, 16, 4),
    "small encoder, 4 × 1600 queries": (4, SMALL, 1600, 8, 16, 4),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, help="of both (default: all cores)")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--forms", nargs="+", choices=IMPLEMENTATIONS, default=["blocked"])
    arguments = parser.parse_args()
    if arguments.threads:
        # XLA's pool has as many threads as it may use cores, and is made at the first use.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.threads])
        torch.set_num_threads(arguments.threads)
    for case, sizes in CASES.items():
        arrays = draw(*sizes)
        forward, gradient = pytorch(sizes[1], *arrays)
        ours = {form: jax_functions(form, sizes[1], *arrays) for form in arguments.forms}
        check(forward, gradient, ours)
        for number, (name, theirs) in enumerate({"forward": forward, "gradient": gradient}.items()):
            functions = {form: pair[number] for form, pair in ours.items()}
            report(f"{case}, {name}", theirs, functions, arguments.repeats)


def draw(b, shapes, q, m, d, p):
    """Value, locations, weights and the result's gradient.

    Queries of an encoder lie on the tokens, and sample around them; those of a decoder anywhere.
    """
    rng = np.random.default_rng(0)
    sizes = np.array([(w, h) for h, w in shapes])
    cells = [
        np.stack(np.meshgrid((np.arange(w) + 0.5) / w, (np.arange(h) + 0.5) / h), -1)
        for h, w in shapes
    ]
    tokens = np.concatenate([grid.reshape(-1, 2) for grid in cells])
    places = tokens if q == len(tokens) else rng.uniform(size=(q, 2))
    places = places[:, None, None, None]
    locations = places + rng.normal(size=(b, q, m, len(shapes), p, 2)) * 2.5 / sizes[:, None]
    weights = rng.uniform(size=(b, q, m, len(shapes) * p))
    weights = (weights / weights.sum(-1, keepdims=True)).reshape(locations.shape[:-1])
    value = rng.normal(size=(b, sum(h * w for h, w in shapes), m, d))
    pull = rng.normal(size=(b, q, m * d))
    return [array.astype(np.float32) for array in (value, locations, weights, pull)]


def pytorch(shapes, value, locations, weights, pull):
    """Two functions without arguments: the forward pass, and it with the gradients."""
    plain = [torch.tensor(array) for array in (value, locations, weights)]
    leaves = [tensor.clone().requires_grad_() for tensor in plain]
    pull = torch.tensor(pull)

    @torch.no_grad()
    def forward():
        return grid_samples(plain[0], shapes, *plain[1:])

    def gradient():
        for leaf in leaves:
            leaf.grad = None
        grid_samples(leaves[0], shapes, *leaves[1:]).backward(pull)
        return [leaf.grad for leaf in leaves]

    return forward, gradient


def grid_samples(value, shapes, locations, weights):
    """The operation by PyTorch's own sampling, a level at a time."""
    b, _, m, d = value.shape
    q, l, p = locations.shape[1], locations.shape[3], locations.shape[4]
    grids = (2 * locations - 1).transpose(1, 2).flatten(0, 1)  # b*m q l p 2
    sampled = []
    for level, part in enumerate(value.split([h * w for h, w in shapes], 1)):
        maps = part.permute(0, 2, 3, 1).reshape(b * m, d, *shapes[level])
        sampled.append(grid_sample(maps, grids[:, :, level], align_corners=False))  # b*m d q p
    weights = weights.transpose(1, 2).reshape(b * m, 1, q, l * p)
    mixed = (torch.stack(sampled, -2).flatten(-2) * weights).sum(-1)
    return mixed.reshape(b, m * d, q).transpose(1, 2).contiguous()


def jax_functions(form, shapes, *arrays):
    """As `pytorch`, of one of our forms."""
    *arrays, pull = map(jnp.asarray, arrays)
    attend = partial(_attend, form, shapes)

    @jax.jit
    def with_gradients(pull, *arrays):
        mixed, back = jax.vjp(attend, *arrays)
        return mixed, back(pull)

    forward = jax.jit(attend)
    return (
        lambda: jax.block_until_ready(forward(*arrays)),
        lambda: jax.block_until_ready(with_gradients(pull, *arrays))[1],
    )


def _attend(form, shapes, value, locations, weights):
    return ms_deform_attn(value, shapes, locations, weights, implementation=form)


def check(forward, gradient, ours) -> None:
    """All agree; compiles ours."""
    wanted = [forward().numpy(), *(tensor.numpy() for tensor in gradient())]
    for form, (run, run_gradient) in ours.items():
        for found, theirs in zip([run(), *run_gradient()], wanted, strict=True):
            # Locations are scaled to pixels in different orders: a sample at a cell's very edge
            # falls to either side, and its slope with it. Nearly all agree to the last digits.
            gaps = np.abs(np.asarray(found) - theirs) / np.abs(theirs).max()
            assert np.quantile(gaps, 0.999) < 1e-5, (form, gaps.max())


def report(name, theirs, ours, repeats) -> None:
    """Time all in turn; each has run before."""
    times = {"PyTorch": []} | {form: [] for form in ours}
    for _ in range(repeats):
        for form, run in [("PyTorch", theirs), *ours.items()]:
            start = time.perf_counter()
            run()
            times[form].append(time.perf_counter() - start)
    best = {form: min(taken) for form, taken in times.items()}
    for form in ours:
        ratio = best["PyTorch"] / best[form]
        print(
            f"{name}, {form}: ratio {ratio:.2f} "
            f"(PyTorch {1e3 * best['PyTorch']:.0f} ms, ours {1e3 * best[form]:.0f} ms)",
            flush=True,
        )


if __name__ == "__main__":
    main()

"""The memory and time that Segment Anything takes on this machine, with random weights.

python tools/benchmark/sam_memory.py [--size vit_h] [--dtype bfloat16]

Encodes one image and decodes 64 prompts of a point, and prints the times of the second call, what
each program holds besides its arguments and results as the compiler says, and the largest memory of
the whole process.

On two cores of a virtual x86 server with 24 GB (AMD Zen 5, jax 0.10.2), otherwise idle, ViT-H:

                encode    temporary   64 prompts   temporary   whole process
    float32     23.1 s     0.34 GiB      1.42 s     1.31 GiB      4.8 GiB
    bfloat16    24.1 s     1.82 GiB      1.57 s     1.25 GiB      5.2 GiB
"""

import argparse
import resource
import time

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.models import build
from jaxseg.params import abstract_params, count
from jaxseg.structures import Images, Prompts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=("vit_b", "vit_l", "vit_h"), default="vit_h")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    arguments = parser.parse_args()
    model = build(f"sam.{arguments.size}", dtype=jnp.dtype(arguments.dtype))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(0.02 * rng.standard_normal(leaf.shape, np.float32), leaf.dtype),
        abstract_params(model),
    )
    print(f"sam.{arguments.size}, {arguments.dtype}: {count(params) / 1e6:.0f} M parameters")
    side = model.canvas_size
    pixels = jnp.asarray(rng.standard_normal((1, side, side, 3), np.float32))
    images = Images(pixels, jnp.ones(pixels.shape[:3], bool))
    points = jnp.asarray(rng.uniform(0, side, (1, 64, 1, 2)), jnp.float32)
    prompts = Prompts(points, jnp.ones((1, 64, 1), jnp.int32))
    encode = jax.jit(lambda p, x: model.apply({"params": p}, x, method="encode"))
    decode = jax.jit(lambda p, x, y: model.apply({"params": p}, x, y, method="decode"))
    embedding = timed("encode", encode, params, images)
    masks = timed("decode 64", decode, params, embedding, prompts)
    assert np.isfinite(masks.logits).all()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"largest memory of the process: {peak:.1f} GiB")


def timed(name: str, function, *arguments):
    """The result; prints time and temporary memory."""
    program = function.lower(*arguments).compile()
    jax.block_until_ready(program(*arguments))
    start = time.perf_counter()
    result = jax.block_until_ready(program(*arguments))
    spent = time.perf_counter() - start
    temporary = program.memory_analysis().temp_size_in_bytes / 2**30
    print(f"{name:10} {spent:6.2f} s, {temporary:.2f} GiB temporary", flush=True)
    return result


if __name__ == "__main__":
    main()

"""Random parameters drawn by NumPy: compiling Linen's own takes longer than the tests."""

import zlib

import jax
import numpy as np

SCALES = {"scale": (0.1, 1.0), "bias": (0.1, 0.0), "mean": (0.3, 0.0), "embedding": (1.0, 0.0)}


def draw(model, *args, seed=0):
    """Parameters of `model` for these arguments; no norm is at its initial 0 and 1."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), *args)["params"]
    return jax.tree_util.tree_map_with_path(lambda path, leaf: _leaf(path, leaf, seed), shapes)


def _leaf(path, leaf, seed):
    name = jax.tree_util.keystr(path)
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    kind = path[-1].key
    if kind == "var":
        return (0.5 + rng.uniform(size=leaf.shape)).astype(np.float32)
    scale, shift = SCALES.get(kind, (np.sqrt(1.5 / max(np.prod(leaf.shape[:-1]), 1)), 0.0))
    return (shift + scale * rng.normal(size=leaf.shape)).astype(np.float32)

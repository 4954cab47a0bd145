"""Multi-scale deformable attention for tests: cases, every form of it, what the plain one says."""

import importlib
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.kernels.ms_deform_attn import IMPLEMENTATIONS, ms_deform_attn
from tests.quick import QUICK

NAMES = sorted(IMPLEMENTATIONS)
# (images, shapes, queries, heads, width of a head, points)
CASES = {
    "four_levels": (2, ((13, 17), (7, 9), (4, 5), (2, 3)), 11, 8, 32, 4),
    "odd_levels": (3, ((1, 1), (1, 9), (11, 1)), 7, 3, 16, 3),
    "one_level_one_point": (2, ((5, 8),), 4, 4, 64, 1),
    "eight_levels_eight_points": (1, tuple((i, i + 1) for i in range(1, 9)), 5, 2, 16, 8),
    "odd_width": (1, ((6, 5), (3, 2)), 9, 2, 24, 2),
    "many_queries": (2, ((20, 30), (10, 15)), 700, 4, 32, 4),
}


def draw(b, shapes, q, m, d, p, dtype=jnp.float32, seed=0):
    """(value, locations, weights, gradient of the result)."""
    rng = np.random.default_rng(seed)
    tokens, levels = sum(h * w for h, w in shapes), len(shapes)
    value = jnp.asarray(rng.normal(size=(b, tokens, m, d)), dtype)
    locations = rng.uniform(-0.6, 1.6, (b, q, m, levels, p, 2))
    # Exactly on borders, in the middle, and farther outside than an integer counts pixels.
    locations[:, 0] = np.round(locations[:, 0])
    locations[:, 1:2] = 0.5
    locations[:, 2:3] *= 1e12
    weights = jax.nn.softmax(jnp.asarray(rng.normal(size=(b, q, m, levels * p)), jnp.float32))
    pull = jnp.asarray(rng.normal(size=(b, q, m * d)), jnp.float32)
    return value, jnp.asarray(locations, jnp.float32), weights.reshape(b, q, m, levels, p), pull


def form(name):
    """A form by its name, called with (value, shapes, locations, weights).

    Kernels for other chips run as plain operations.
    """
    if not name.startswith("pallas"):
        return partial(ms_deform_attn, implementation=name)
    module = importlib.import_module(f"jaxseg.kernels.ms_deform_attn.{name}")
    return partial(getattr(module, name), interpret=True)


def value_and_gradients(attend, shapes, value, locations, weights, pull, **options):
    """The result of a form, and its gradients for values, locations and weights."""

    @partial(jax.jit, **options)
    def run(value, locations, weights, pull):
        def sample(value, locations, weights):
            return attend(value, shapes, locations, weights)

        output, back = jax.vjp(sample, value, locations, weights)
        return output, *back(pull.astype(output.dtype))

    return run(value, locations, weights, pull)


@cache
def expected(case):
    """What the plain form makes of a case."""
    arrays = draw(*CASES[case])
    plain, quick = form("reference"), {"compiler_options": QUICK}
    return value_and_gradients(plain, CASES[case][1], *arrays, **quick)


def assert_close(found, wanted, limit=3e-6):
    """Within the limit of each array's largest number."""
    for one, other in zip(found, wanted, strict=True):
        scale = max(float(jnp.abs(other).max()), 1e-3)
        np.testing.assert_allclose(one, other, rtol=0, atol=limit * scale)

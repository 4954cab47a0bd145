"""Every implementation of multi-scale deformable attention against the plain form."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.kernels.ms_deform_attn import IMPLEMENTATIONS, ms_deform_attn

OTHERS = sorted(set(IMPLEMENTATIONS) - {"reference"})
# (images, shapes, queries, heads, width of a head, points)
CASES = {
    "four_levels": (2, ((13, 17), (7, 9), (4, 5), (2, 3)), 11, 8, 32, 4),
    "odd_levels": (3, ((1, 1), (1, 9), (11, 1)), 7, 3, 16, 3),
    "one_level_one_point": (2, ((5, 8),), 4, 4, 64, 1),
    "eight_levels_eight_points": (1, tuple((i, i + 1) for i in range(1, 9)), 5, 2, 16, 8),
    "many_queries": (2, ((20, 30), (10, 15)), 700, 4, 32, 4),
}


def draw(b, shapes, q, m, d, p, dtype=jnp.float32, seed=0):
    rng = np.random.default_rng(seed)
    tokens, levels = sum(h * w for h, w in shapes), len(shapes)
    value = jnp.asarray(rng.normal(size=(b, tokens, m, d)), dtype)
    # Far outside too, and exactly on borders and centres.
    locations = rng.uniform(-0.6, 1.6, (b, q, m, levels, p, 2))
    locations[:, 0] = np.round(locations[:, 0])
    locations[:, 1:2] = 0.5
    weights = jax.nn.softmax(jnp.asarray(rng.normal(size=(b, q, m, levels * p)), jnp.float32))
    pull = jnp.asarray(rng.normal(size=(b, q, m * d)), jnp.float32)
    return value, jnp.asarray(locations, jnp.float32), weights.reshape(b, q, m, levels, p), pull


def call(name, value, shapes, locations, weights):
    """An implementation by name; kernels for other chips run as plain operations."""
    if not name.startswith("pallas"):
        return ms_deform_attn(value, shapes, locations, weights, implementation=name)
    module = importlib.import_module(f"jaxseg.kernels.ms_deform_attn.{name}")
    return getattr(module, name)(value, shapes, locations, weights, interpret=True)


def value_and_gradients(name, shapes, value, locations, weights, pull):
    def sample(value, locations, weights):
        return call(name, value, shapes, locations, weights)

    output, back = jax.vjp(sample, value, locations, weights)
    return output, *back(pull.astype(output.dtype))


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("case", CASES)
def test_value_and_all_gradients_are_those_of_the_plain_form(name, case):
    shapes, arrays = CASES[case][1], draw(*CASES[case])
    run = jax.jit(value_and_gradients, static_argnums=(0, 1))
    wanted, found = (run(which, shapes, *arrays) for which in ("reference", name))
    for one, other in zip(wanted, found, strict=True):
        limit = 3e-6 * max(float(jnp.abs(one).max()), 1e-3)
        np.testing.assert_allclose(other, one, rtol=0, atol=limit)


@pytest.mark.parametrize("name", sorted(IMPLEMENTATIONS))
def test_bfloat16_values_give_bfloat16_near_the_float32_result(name):
    shapes = CASES["four_levels"][1]
    value, *rest = draw(*CASES["four_levels"])
    wanted = value_and_gradients(name, shapes, value, *rest)
    found = value_and_gradients(name, shapes, value.astype(jnp.bfloat16), *rest)
    assert found[0].dtype == found[1].dtype == jnp.bfloat16
    for one, other in zip(wanted, found, strict=True):
        gap = jnp.abs(other.astype(jnp.float32) - one).max() / jnp.abs(one).max()
        assert gap < 0.02


@pytest.mark.parametrize("name", sorted(IMPLEMENTATIONS))
def test_images_may_be_mapped_one_by_one(name):
    shapes, (value, locations, weights, _) = CASES["odd_levels"][1], draw(*CASES["odd_levels"])

    def one(value, locations, weights):
        arrays = (x[None] for x in (value, locations, weights))
        value, locations, weights = arrays
        return call(name, value, shapes, locations, weights)[0]

    mapped = jax.vmap(one)(value, locations, weights)
    whole = call(name, value, shapes, locations, weights)
    np.testing.assert_allclose(mapped, whole, rtol=0, atol=1e-5)


def test_wrong_arguments_are_refused_with_what_came():
    shapes, (value, locations, weights, _) = CASES["odd_levels"][1], draw(*CASES["odd_levels"])
    with pytest.raises(ValueError, match="no implementation 'fast'; there are reference"):
        ms_deform_attn(value, shapes, locations, weights, implementation="fast")
    with pytest.raises(ValueError, match="have 20 tokens; value has 21"):
        ms_deform_attn(value, ((1, 1), (1, 8), (11, 1)), locations, weights)
    with pytest.raises(ValueError, match="2 maps; locations are for 3 levels"):
        ms_deform_attn(value, ((1, 10), (11, 1)), locations, weights)
    with pytest.raises(ValueError, match="must agree in all but the last axis"):
        ms_deform_attn(value, shapes, locations, weights[:, :-1])
    with pytest.raises(ValueError, match="as many images and heads"):
        ms_deform_attn(value[:1], shapes, locations, weights)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="says what a CPU refuses")
@pytest.mark.parametrize(("name", "chip"), [("pallas_tpu", "TPU"), ("pallas_gpu", "GPU")])
def test_a_kernel_of_another_chip_is_refused_and_not_replaced(name, chip):
    shapes, (value, locations, weights, _) = CASES["odd_levels"][1], draw(*CASES["odd_levels"])
    with pytest.raises(ValueError, match=f"needs a {chip}, and this program is for a CPU"):
        ms_deform_attn(value, shapes, locations, weights, implementation=name)

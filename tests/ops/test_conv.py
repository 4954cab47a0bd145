"""Convolution by hand against the compiler's own."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.ops import conv as module
from jaxseg.ops.conv import conv
from tests.quick import AS_SHIPPED

CASES = {
    "plain": ((2, 9, 11, 16), 3, 24, {"padding": 1}),
    "stride": ((2, 9, 12, 16), 3, 8, {"padding": 1, "stride": 2}),
    "dilation": ((1, 10, 7, 20), 3, 16, {"padding": 2, "dilation": 2}),
    "wide window": ((1, 9, 9, 16), 7, 4, {"padding": 3, "stride": 2}),
    "no padding": ((1, 6, 5, 16), 3, 4, {}),
    "few channels": ((2, 9, 11, 3), 3, 8, {"padding": 1}),
}


def case(name):
    shape, size, width, options = CASES[name]
    rng = np.random.default_rng(0)
    x, kernel, dx, dkernel = (
        jnp.asarray(rng.standard_normal(s), jnp.float32)
        for s in 2 * (shape, (size, size, shape[-1], width))
    )
    filled = {"stride": 1, "padding": 0, "dilation": 1} | options
    return (x, kernel), (dx, dkernel), options, lambda x, k: module._plain(x, k, **filled)


# Positions at a time: every row apart, and some blocks that do not divide the rows.
@pytest.mark.parametrize("positions", [1, 50, 2560])
@pytest.mark.parametrize("name", CASES)
def test_both_derivatives_are_those_of_the_plain_form(name, positions, monkeypatch):
    monkeypatch.setattr(module, "POSITIONS", positions)
    primals, tangents, options, plain = case(name)

    def ours(x, kernel):
        return conv(x, kernel, **options)

    for given, wanted in zip(
        jax.jvp(ours, primals, tangents), jax.jvp(plain, primals, tangents), strict=True
    ):
        np.testing.assert_allclose(given, wanted, rtol=0, atol=1e-4)

    def gradient(compute):
        return jax.grad(lambda primals: jnp.sin(compute(*primals)).sum())(primals)

    for given, wanted in zip(gradient(ours), gradient(plain), strict=True):
        np.testing.assert_allclose(given, wanted, rtol=0, atol=2e-4)


def test_gradients_of_single_examples_and_of_gradients():
    (x, kernel), (_, dkernel), options, plain = case("stride")

    def of_kernel(compute):
        def loss(kernel, x):
            return jnp.sin(compute(x[None], kernel)).sum()

        return lambda kernel, x: jax.vmap(jax.grad(loss), (None, 0))(kernel, x)

    ours = of_kernel(lambda x, k: conv(x, k, **options))
    np.testing.assert_allclose(ours(kernel, x), of_kernel(plain)(kernel, x), rtol=0, atol=1e-4)
    given, wanted = (
        jax.jvp(partial(each, x=x), (kernel,), (dkernel,))[1] for each in (ours, of_kernel(plain))
    )
    np.testing.assert_allclose(given, wanted, rtol=1e-5, atol=2e-3)


def test_windows_are_not_kept_for_the_backward_pass():
    x, kernel = jnp.ones((1, 128, 128, 16)), jnp.ones((3, 3, 16, 16))

    def loss(kernel):
        return (conv(jnp.sin(x), kernel, padding=1) ** 2).sum()

    program = jax.jit(jax.grad(loss)).lower(kernel).compile(AS_SHIPPED)
    windows = 9 * x.size * 4
    assert program.memory_analysis().temp_size_in_bytes < windows
    text = program.as_text()
    assert "while" in text, "the form by hand was taken"

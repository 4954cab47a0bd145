"""What the operation refuses, which form it chooses, and what it imports."""

import subprocess
import sys
from types import SimpleNamespace
from typing import get_args

import jax
import jax.numpy as jnp
import pytest

from jaxseg.kernels.ms_deform_attn import IMPLEMENTATIONS, Implementation, choice, ms_deform_attn
from jaxseg.kernels.ms_deform_attn.api import check
from tests.kernels.operation import CASES, draw

FOUR = ((100, 167), (50, 84), (25, 42), (13, 21))
FIVE = ((200, 334), *FOUR)
MIB = 2**20
# A core's VMEM.
V4, V5P, V5E = 16 * MIB, 64 * MIB, 128 * MIB
ON_CPU = pytest.mark.skipif(jax.default_backend() != "cpu", reason="says what a CPU does")


def arrays(shapes, queries):
    """The shapes of one image's arrays in a detector: 8 heads of 32 channels, 4 points."""
    tokens, levels = sum(h * w for h, w in shapes), len(shapes)
    value = jax.ShapeDtypeStruct((1, tokens, 8, 32), jnp.float32)
    return value, shapes, jax.ShapeDtypeStruct((1, queries, 8, levels, 4, 2), jnp.float32)


def on_chip(monkeypatch, platform, vmem=0):
    from jax.experimental.pallas import tpu as pltpu

    monkeypatch.setattr(choice, "platform", lambda: platform)
    info = SimpleNamespace(vmem_capacity_bytes=vmem)
    monkeypatch.setattr(pltpu, "get_tpu_info", lambda: info)


def test_every_name_has_its_form():
    assert set(IMPLEMENTATIONS) == set(get_args(Implementation))


def test_an_unknown_name_is_refused_with_the_names_there_are():
    shapes, (value, locations, weights, _) = CASES["odd_levels"][1], draw(*CASES["odd_levels"])
    # The types allow no such call; those who run without them get a list.
    call = getattr(ms_deform_attn, "__wrapped__", ms_deform_attn)
    with pytest.raises(ValueError, match="no implementation 'fast'; there are reference, blocked"):
        call(value, shapes, locations, weights, implementation="fast")


def test_arrays_that_do_not_fit_are_refused_with_what_came():
    shapes, (value, locations, weights, _) = CASES["odd_levels"][1], draw(*CASES["odd_levels"])
    with pytest.raises(ValueError, match="have 20 tokens; value has 21"):
        check(value, ((1, 1), (1, 8), (11, 1)), locations, weights)
    with pytest.raises(ValueError, match="2 maps; locations are for 3 levels"):
        check(value, ((1, 10), (11, 1)), locations, weights)
    with pytest.raises(ValueError, match="must agree in all but the last axis"):
        check(value, shapes, locations, weights[:, :-1])
    with pytest.raises(ValueError, match="as many images and heads"):
        check(value[:1], shapes, locations, weights)


@ON_CPU
@pytest.mark.parametrize(("name", "chip"), [("pallas_tpu", "TPU"), ("pallas_gpu", "GPU")])
def test_a_kernel_of_another_chip_is_refused_and_not_replaced(name, chip):
    shapes, (value, locations, weights, _) = CASES["odd_levels"][1], draw(*CASES["odd_levels"])
    with pytest.raises(ValueError, match=f"needs a {chip}, and this program is for a CPU"):
        ms_deform_attn(value, shapes, locations, weights, implementation=name)


def test_a_kernel_whose_maps_do_not_fit_is_refused_with_both_sizes(monkeypatch):
    on_chip(monkeypatch, "tpu", V4)
    choice.require("pallas_tpu", *arrays(FOUR, 900))
    with pytest.raises(ValueError, match=r"needs \d\d MiB, and this TPU has 16; use 'chunked'"):
        choice.require("pallas_tpu", *arrays(FIVE, 900))


@pytest.mark.parametrize(
    ("platform", "vmem", "shapes", "queries", "name"),
    [
        ("cpu", 0, FOUR, 22223, "blocked"),
        ("gpu", 0, FOUR, 22223, "ordered"),
        ("tpu", V5E, FOUR, 22223, "pallas_tpu"),
        ("tpu", V4, FOUR, 22223, "pallas_tpu"),
        ("tpu", V5P, FIVE, 89023, "pallas_tpu"),
        ("tpu", V4, FIVE, 89023, "chunked"),
        ("tpu", V4, FIVE, 300, "quad"),
        ("some new chip", 0, FOUR, 900, "reference"),
    ],
)
def test_none_chooses_by_platform_and_memory(monkeypatch, platform, vmem, shapes, queries, name):
    on_chip(monkeypatch, platform, vmem)
    assert choice.choose(*arrays(shapes, queries)) == name


@ON_CPU
def test_a_cpu_never_imports_pallas():
    program = """
import sys
import jax.numpy as jnp
from jaxseg.kernels.ms_deform_attn import ms_deform_attn
ms_deform_attn(jnp.ones((1, 1, 1, 1)), ((1, 1),), jnp.ones((1,) * 5 + (2,)), jnp.ones((1,) * 5))
assert "jax.experimental.pallas" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)

"""Every form of multi-scale deformable attention against the plain one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.kernels.ms_deform_attn import blocked, quad
from tests.kernels.operation import (
    CASES,
    NAMES,
    assert_close,
    draw,
    expected,
    form,
    value_and_gradients,
)

OTHERS = [name for name in NAMES if name != "reference"]


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("case", CASES)
def test_value_and_all_gradients_are_those_of_the_plain_form(name, case):
    found = value_and_gradients(form(name), CASES[case][1], *draw(*CASES[case]))
    assert_close(found, expected(case))


@pytest.mark.parametrize("name", NAMES)
def test_a_map_of_two_by_two_is_read_as_by_hand(name):
    value = jnp.asarray([1.0, 2, 4, 8]).reshape(1, 4, 1, 1)
    # The middle; a cell's centre; a corner, of whose four neighbours one is inside; the middle of
    # the right border; half a cell beyond it; farther outside.
    places = [(0.5, 0.5), (0.25, 0.75), (0, 0), (1, 0.5), (1.25, 0.25), (1.3, 0.5)]
    locations = jnp.asarray(places).reshape(1, 6, 1, 1, 1, 2)
    read = form(name)(value, ((2, 2),), locations, jnp.ones(locations.shape[:-1]))
    np.testing.assert_allclose(read[0, :, 0], [3.75, 4, 0.25, 2.5, 0, 0], rtol=1e-6)


@pytest.mark.parametrize("name", ["blocked", "chunked", "ordered"])
def test_a_result_is_the_same_however_queries_are_cut(name, monkeypatch):
    # Of one query, of a few that do not divide their number, of all.
    for size in (1, 2**13, 2**40):
        monkeypatch.setattr(blocked, "FORWARD_BYTES", size)
        monkeypatch.setattr(blocked, "BACKWARD_BYTES", size)
        monkeypatch.setattr(quad, "CHUNK_BYTES", size)
        jax.clear_caches()
        arrays = draw(*CASES["four_levels"])
        found = value_and_gradients(form(name), CASES["four_levels"][1], *arrays)
        assert_close(found, expected("four_levels"))


def test_images_that_are_taken_side_by_side_have_gradients_of_their_own():
    # Four at a time, in sixteen blocks and more.
    shapes = ((6, 5), (3, 2))
    arrays = draw(4, shapes, 4099, 2, 16, 2)
    sizes = blocked.Blocks.of(arrays[0], shapes, arrays[1], blocked.BACKWARD_BYTES)
    assert blocked._chains(sizes) == 4
    found, wanted = (
        value_and_gradients(form(name), shapes, *arrays) for name in ("blocked", "reference")
    )
    assert_close(found, wanted)


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_values_give_bfloat16_near_the_float32_result(name):
    value, *rest = draw(*CASES["four_levels"])
    value = value.astype(jnp.bfloat16)
    found = value_and_gradients(form(name), CASES["four_levels"][1], value, *rest)
    assert found[0].dtype == found[1].dtype == jnp.bfloat16
    # A bfloat16 has eight bits, and the values, the result and its gradient are rounded to it.
    found = [array.astype(jnp.float32) for array in found]
    assert_close(found, expected("four_levels"), limit=0.02)


@pytest.mark.parametrize("name", NAMES)
def test_images_may_be_mapped_one_by_one(name):
    attend, shapes = form(name), CASES["odd_levels"][1]

    @jax.jit
    @jax.vmap
    def one(*arrays):
        *arrays, pull = (x[None] for x in arrays)
        return [x[0] for x in value_and_gradients(attend, shapes, *arrays, pull)]

    assert_close(one(*draw(*CASES["odd_levels"])), expected("odd_levels"))


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("pallas")])
def test_no_queries_give_no_rows_and_zero_gradients(name):
    shapes = ((2, 3),)
    arrays = draw(2, shapes, 4, 2, 8, 1)
    arrays = arrays[0], *(array[:, :0] for array in arrays[1:])
    output, of_value, of_locations, _ = value_and_gradients(form(name), shapes, *arrays)
    assert output.shape == (2, 0, 16)
    assert of_locations.shape == (2, 0, 2, 1, 1, 2)
    assert not of_value.any()

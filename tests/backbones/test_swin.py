"""Swin: published sizes without a weight in memory, and small ones run."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.backbones.swin import (
    Swin,
    swin,
    swin_b,
    swin_b_384,
    swin_l,
    swin_l_384,
    swin_s,
    swin_t,
)
from jaxseg.backbones.swin_blocks import Block
from jaxseg.ops.windows import shift_regions
from jaxseg.params import abstract_params, count
from tests.backbones.canvas import assert_canvas_exact
from tests.quick import quick_jit
from tests.weights import draw

ALL = (0, 1, 2, 3)
ONE_STAGE = {"width": 8, "depths": (2,), "num_heads": (2,), "window": 3, "stages": (0,)}
SMALL = {"width": 8, "depths": (1, 2), "num_heads": (1, 2), "window": 3, "stages": (0, 1)}


def shapes(net, height=64, width=64):
    pixels = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
    outputs, _ = jax.eval_shape(net.init_with_output, jax.random.key(0), pixels)
    return [output.shape for output in outputs]


# Parameters of the classifiers, 1000 classes included, as Microsoft's release counts them.
@pytest.mark.parametrize(
    ("build", "parameters", "width"),
    [
        (swin_t, 28_288_354, 96),
        (swin_s, 49_606_258, 96),
        (swin_b, 87_768_224, 128),
        (swin_b_384, 87_903_584, 128),
        (swin_l, 196_532_476, 192),
        (swin_l_384, 196_735_516, 192),
    ],
)
def test_published_sizes_have_their_parameters(build, parameters, width):
    net = build(stages=(3,))
    classifier = (8 * width + 1) * 1000
    assert count(abstract_params(net)) + classifier == parameters
    assert net.window == (12 if "384" in build.__name__ else 7)


def test_every_stage_halves_the_map_and_doubles_the_channels():
    net = swin_t(stages=ALL)
    assert shapes(net) == [(1, 16, 16, 96), (1, 8, 8, 192), (1, 4, 4, 384), (1, 2, 2, 768)]
    assert net.strides == (4, 8, 16, 32)


def test_odd_sizes_are_rounded_up():
    assert shapes(swin_t(stages=ALL), 115, 137) == [
        (1, 29, 35, 96),
        (1, 15, 18, 192),
        (1, 8, 9, 384),
        (1, 4, 5, 768),
    ]


def test_dilation_keeps_resolution_and_channels_of_the_stage_before():
    net = swin_t(stages=(2, 3), dilation=True)
    assert shapes(net) == [(1, 4, 4, 384), (1, 4, 4, 384)]
    assert net.strides == (16, 16)
    attention = abstract_params(net)["stage3_0"]["attn"]
    assert attention["relative_position_bias_table"].shape == (169, 24)


def test_only_returned_stages_have_norms_and_only_needed_ones_exist():
    params = abstract_params(swin_t(stages=(0, 2)))
    assert {"norm0", "norm2"} <= set(params)
    assert not {"norm1", "norm3", "stage3_0", "downsample2"} & set(params)


def test_an_unknown_size_or_pretraining_names_those_there_are():
    with pytest.raises(ValueError, match="no Swin of size 'nano'; there are"):
        swin("nano")
    with pytest.raises(ValueError, match=r"pre-trained at 256; there are \[224, 384\]"):
        swin("tiny", 256)


# Windows of 3 and 4 have odd and even shifts; the images' maps leave every remainder, are smaller
# than a window, or fill the canvas, whose own maps are odd too.
@pytest.mark.parametrize(
    "fields", [{"depths": (2, 2)}, {"window": 4, "position_size": 40, "dilation": True}], ids=str
)
def test_an_image_has_the_same_maps_on_any_canvas(fields):
    net = Swin(**SMALL | fields)
    assert_canvas_exact(net, [(45, 70), (53, 17), (3, 5)], [(64, 96), (53, 70)])


def test_without_a_mask_padding_is_content():
    net = Swin(**ONE_STAGE)
    pixels = jnp.asarray(np.random.default_rng(0).normal(size=(1, 20, 20, 3)), jnp.float32)
    params = draw(net, pixels)

    @quick_jit
    def forward(pixels):
        return net.apply({"params": params}, pixels)[0]

    alone, padded = forward(pixels), forward(jnp.pad(pixels, ((0, 0), (0, 12), (0, 12), (0, 0))))
    assert jnp.abs(padded[:, :5, :5] - alone).max() > 1e-2


def test_windows_shift_even_where_the_map_is_one_window():
    """After the roll the first row and column meet the others, and stay apart from them."""
    generator = np.random.default_rng(0)
    x, other = (jnp.asarray(generator.normal(size=(1, 3, 3, 8)), jnp.float32) for _ in range(2))
    other = other.at[0, 0, 0].set(x[0, 0, 0])
    regions = shift_regions(jnp.array([[3, 3]]), 3, 3, 3, 1)
    params = draw(Block(2, 3), x, None, None)

    @functools.partial(quick_jit, static_argnums=0)
    def corner(block, x, regions):
        return block.apply({"params": params}, x, None, regions)[0, 0, 0]

    shifted, plain = Block(2, 3, shift=1), Block(2, 3)
    np.testing.assert_allclose(corner(shifted, x, regions), corner(shifted, other, regions))
    assert jnp.abs(corner(plain, x, None) - corner(plain, other, None)).max() > 1e-2


def loss_and_gradient(net, params, pixels, **options):
    def loss(params):
        maps = net.apply({"params": params}, pixels, **options)
        return sum(jnp.sum(jnp.square(x.astype(jnp.float32))) for x in maps)

    return quick_jit(jax.value_and_grad(loss))(params)


def test_recomputing_blocks_changes_nothing():
    pixels = jnp.asarray(np.random.default_rng(0).normal(size=(1, 20, 16, 3)), jnp.float32)
    params = draw(Swin(**ONE_STAGE), pixels)
    options = {"train": True, "rngs": {"dropout": jax.random.key(1)}}
    plain, again = (
        loss_and_gradient(Swin(**ONE_STAGE, remat=remat), params, pixels, **options)
        for remat in (False, True)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), plain, again)


def test_paths_are_dropped_in_training_only():
    pixels = jnp.ones((8, 16, 16, 3))
    net = Swin(**ONE_STAGE, drop_path=0.9)
    params = draw(net, pixels)

    @functools.partial(quick_jit, static_argnames="train")
    def last(**options):
        return net.apply({"params": params}, pixels, **options)[-1]

    assert jnp.ptp(last(), axis=0).max() < 1e-4
    trained = last(train=True, rngs={"dropout": jax.random.key(0)})
    assert jnp.ptp(trained, axis=0).max() > 1e-2


def test_bfloat16_computes_and_trains():
    pixels = jnp.ones((1, 20, 16, 3))
    net = Swin(**ONE_STAGE, dtype=jnp.bfloat16)
    params = draw(net, pixels)
    (shape,) = jax.eval_shape(net.apply, {"params": params}, pixels)
    assert shape.dtype == jnp.bfloat16
    loss, gradient = loss_and_gradient(net, params, pixels)
    assert np.isfinite(loss)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))

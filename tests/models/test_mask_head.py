"""The mask head: its size, its canvas, its memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxseg.models import build
from jaxseg.models.detr.builders import segmentation
from jaxseg.models.detr.mask_head import AttentionMaps, MaskHead, PairConv
from jaxseg.params import abstract_params, count
from jaxseg.structures import Images
from tests import weights
from tests.quick import QUICK, quick_jit


def images(*arrays, canvas):
    pixels = np.zeros((len(arrays), *canvas, 3), np.float32)
    mask = np.zeros((len(arrays), *canvas), bool)
    for i, array in enumerate(arrays):
        h, w = array.shape[:2]
        pixels[i, :h, :w], mask[i, :h, :w] = array, True
    return Images(jnp.asarray(pixels), jnp.asarray(mask))


def noise(h, w, seed):
    return np.random.default_rng(seed).normal(size=(h, w, 3)).astype(np.float32)


def small(**fields):
    options = {
        "depth": 18, "width": 32, "num_heads": 8, "feedforward": 48, "encoder_layers": 1,
        "decoder_layers": 1, "num_queries": 6, "num_classes": 4, "dropout": 0.0,
    }  # fmt: skip
    model = segmentation(**options | fields)
    stages = {"depths": (1, 1, 1, 1)}
    return model.clone(backbone=model.backbone.clone(**stages))


def drawn(model):
    params = weights.draw(model, images(noise(64, 64, 0), canvas=(64, 64)))
    # Sharp attention, and a head that heeds it: as drawn, all queries' masks would be equal.
    params["decoder"]["layer_0"]["cross_attn"]["q_proj"]["kernel"] *= 30
    for name in ("adapter1", "adapter2", "adapter3"):
        params["mask_head"][name]["kernel"] *= 0.05
    params["mask_head"]["conv1"]["kernel"][:, :, model.width :] *= 100
    return params


@functools.partial(jax.jit, static_argnames="model", compiler_options=QUICK)
def run(model, params, batch):
    return model.apply({"params": params}, batch)


def masks(model, params, batch):
    return np.asarray(model.mask_logits(run(model, params, batch)))


def test_the_published_mask_head_has_the_published_number_of_parameters():
    shapes = abstract_params(build("detr.r50_panoptic"))
    assert count(shapes["bbox_attention"]) + count(shapes["mask_head"]) == 1_333_657
    box_detector = abstract_params(build("detr.r50", num_classes=250))
    assert {k: v for k, v in shapes.items() if k in box_detector} == box_detector


def test_masks_are_at_stride_four_of_whatever_the_last_stage_has():
    for name in ("r50_panoptic", "r50_dc5_panoptic"):
        model = build(f"detr.{name}", num_queries=5)
        batch = images(noise(64, 96, 0), canvas=(64, 96))
        output, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), batch)
        assert output.extras["masks"].shape == (1, 5, 16, 24)
        assert [x.shape[1] for x in output.features.maps][:3] == [16, 8, 4]


@pytest.mark.parametrize("dilation", [False, True])
def test_an_exact_canvas_gives_every_image_the_masks_it_has_alone(dilation):
    model = small(canvas="exact", dilation=dilation)
    params = drawn(model)
    first, second = noise(61, 90, 1), noise(96, 40, 2)
    together = masks(model, params, images(first, second, canvas=(96, 96)))
    original = model.clone(canvas="padded")
    alone = masks(original, params, images(first, canvas=(61, 90)))
    assert alone.shape[2:] == (16, 23)
    np.testing.assert_allclose(together[:1, :, :16, :23], alone, atol=2e-4)
    assert alone.std(1).mean() > 0.01  # queries differ
    padded = masks(original, params, images(first, canvas=(96, 96)))
    assert np.abs(padded[:, :, :16, :23] - alone).max() > 0.01  # what exactness is there for


def test_a_row_that_only_fills_up_the_batch_stays_finite():
    model = small(canvas="exact")
    batch = images(noise(64, 64, 1), noise(0, 0, 2), canvas=(64, 64))
    assert np.isfinite(masks(model, drawn(model), batch)).all()


def test_maps_share_one_softmax_over_heads_and_leave_padding_out():
    rng = np.random.default_rng(0)
    states, memory = (jnp.asarray(rng.normal(size=(2, n, 16)), jnp.float32) for n in (3, 5))
    mask = jnp.asarray([[True] * 5, [True, True, False, False, False]])
    model = AttentionMaps(num_heads=4)
    maps = model.apply({"params": weights.draw(model, states, memory, mask)}, states, memory, mask)
    assert maps.shape == (2, 3, 5, 4)
    np.testing.assert_allclose(maps.sum((2, 3)), 1, atol=1e-6)
    assert not maps[1, :, 2:].any()
    assert np.ptp(maps.sum(2)) > 0.01  # no head has a softmax of its own


def test_the_shared_half_of_a_convolution_is_the_whole_one():
    rng = np.random.default_rng(0)
    shared = jnp.asarray(rng.normal(size=(2, 5, 6, 7)), jnp.float32)
    own = jnp.asarray(rng.normal(size=(6, 5, 6, 3)), jnp.float32)
    model = PairConv(4)
    params = weights.draw(model, shared, own)
    joined = jnp.concatenate([jnp.repeat(shared, 3, 0), own], -1)
    layout = ("NHWC", "HWIO", "NHWC")
    whole = lax.conv_general_dilated(
        joined, params["kernel"], (1, 1), [(1, 1), (1, 1)], dimension_numbers=layout
    )
    split = model.apply({"params": params}, shared, own)
    np.testing.assert_allclose(split, whole + params["bias"], atol=1e-4)


def test_masks_of_a_few_queries_at_a_time_are_the_same_and_so_is_their_gradient():
    rng = np.random.default_rng(0)
    sizes = ((3, 2), (5, 4), (9, 8))
    finer = [jnp.asarray(rng.normal(size=(2, *s, 8)), jnp.float32) for s in sizes]
    projected = jnp.asarray(rng.normal(size=(2, 2, 2, 32)), jnp.float32)
    maps = jnp.asarray(rng.uniform(size=(2, 6, 2, 2, 8)), jnp.float32)
    arguments = (projected, maps, finer, (None,) * 4)
    whole, parts = MaskHead(32), MaskHead(32, queries_at_once=2)
    params = weights.draw(whole, *arguments)
    assert jax.tree.map(jnp.shape, weights.draw(parts, *arguments)) == jax.tree.map(
        jnp.shape, params
    )

    def loss(model):
        square = lambda p: jnp.square(model.apply({"params": p}, *arguments)).sum()  # noqa: E731
        return quick_jit(jax.value_and_grad(square))(params)

    (a, gradients_a), (b, gradients_b) = loss(whole), loss(parts)
    np.testing.assert_allclose(a, b, rtol=1e-5)
    for x, y in zip(jax.tree.leaves(gradients_a), jax.tree.leaves(gradients_b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-2)
    with pytest.raises(ValueError, match="queries_at_once must divide the 6 queries; got 4"):
        MaskHead(32, queries_at_once=4).apply({"params": params}, *arguments)


def test_bfloat16_computes_in_bfloat16_and_draws_in_float32():
    model = small(dtype=jnp.bfloat16)
    output = jax.eval_shape(
        lambda: model.init_with_output(
            jax.random.key(0), images(noise(64, 64, 1), canvas=(64, 64))
        )[0]
    )
    assert output.extras["projected"].dtype == jnp.bfloat16
    assert output.extras["attention_maps"].dtype == jnp.float32
    assert output.extras["masks"].dtype == jnp.float32

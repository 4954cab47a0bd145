import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxseg.necks.channel_mapper import ChannelMapper
from tests import weights


def maps(*sizes, channels=8, seed=0):
    rng = np.random.default_rng(seed)
    return tuple(jnp.asarray(rng.normal(size=(1, *s, channels)), jnp.float32) for s in sizes)


def test_levels_beyond_the_backbones_halve_the_last():
    neck = ChannelMapper(16, 5)
    levels = jax.eval_shape(
        lambda m: neck.init_with_output(jax.random.key(0), m)[0], maps((9, 7), (5, 4))
    )
    assert [x.shape for x in levels] == [
        (1, 9, 7, 16), (1, 5, 4, 16), (1, 3, 2, 16), (1, 2, 1, 16), (1, 1, 1, 16)
    ]  # fmt: skip


def test_with_masks_every_level_is_that_of_the_image_alone():
    neck = ChannelMapper(16, 3)
    (alone,) = maps((5, 3))
    params = weights.draw(neck, (alone,))
    canvas = jnp.full((1, 8, 6, 8), 7.0).at[:, :5, :3].set(alone)
    mask = jnp.zeros((1, 8, 6), bool).at[:, :5, :3].set(True)
    masks = (mask, mask[:, ::2, ::2], mask[:, ::4, ::4])
    wanted = neck.apply({"params": params}, (alone,))
    found = neck.apply({"params": params}, (canvas,), masks)
    for one, other in zip(wanted, found, strict=True):
        _, h, w, _ = one.shape
        np.testing.assert_allclose(other[:, :h, :w], one, rtol=0, atol=2e-6)


@pytest.mark.parametrize("width", [32, 64])
def test_every_level_is_normalised_in_thirty_two_groups(width):
    (x,) = maps((5, 3))
    neck = ChannelMapper(width, 1)
    params = weights.draw(neck, (x,))
    (level,) = neck.apply({"params": params}, (x,))
    kernel, bias, scale, shift = (
        torch.tensor(np.asarray(params[layer][name]))
        for layer, name in (("conv_0", "kernel"), ("conv_0", "bias"), ("norm_0", "scale"),
                            ("norm_0", "bias"))
    )  # fmt: skip
    projected = torch.tensor(np.asarray(x)) @ kernel[0, 0] + bias
    wanted = torch.nn.functional.group_norm(projected.permute(0, 3, 1, 2), 32, scale, shift)
    np.testing.assert_allclose(level, wanted.permute(0, 2, 3, 1), rtol=0, atol=2e-5)


def test_more_maps_than_levels_are_refused():
    with pytest.raises(ValueError, match="returns 2 maps, the neck has 1 levels"):
        ChannelMapper(16, 1).init(jax.random.key(0), maps((4, 4), (2, 2)))

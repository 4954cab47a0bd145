"""Normalisation against PyTorch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxseg.nn.layers import GroupNorm


@pytest.mark.parametrize(("channels", "groups"), [(64, 32), (128, 32), (16, 8), (6, 3), (2, 1)])
def test_group_norm_has_at_most_its_groups_of_two_channels_or_more(channels, groups):
    x = np.random.default_rng(0).normal(1, 2, (2, 5, 7, channels)).astype(np.float32)
    norm = GroupNorm()
    ours = norm.apply(norm.init(jax.random.key(0), jnp.asarray(x)), jnp.asarray(x))
    theirs = torch.nn.functional.group_norm(torch.tensor(x).permute(0, 3, 1, 2), groups)
    np.testing.assert_allclose(ours, theirs.permute(0, 2, 3, 1), atol=1e-5)


def test_group_norm_leaves_padding_out_of_its_statistics():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(1, 4, 6, 8)).astype(np.float32)
    padded = rng.normal(50, 9, (1, 6, 8, 8)).astype(np.float32)
    padded[:, :4, :6] = x
    mask = np.zeros((1, 6, 8), bool)
    mask[:, :4, :6] = True
    norm = GroupNorm(4)
    variables = norm.init(jax.random.key(0), jnp.asarray(x))
    whole = norm.apply(variables, jnp.asarray(padded), jnp.asarray(mask))
    np.testing.assert_allclose(whole[:, :4, :6], norm.apply(variables, jnp.asarray(x)), atol=1e-5)


def test_group_norm_refuses_channels_that_do_not_divide():
    norm = GroupNorm()
    with pytest.raises(ValueError, match="80 channels do not divide into 32 groups"):
        norm.init(jax.random.key(0), jnp.ones((1, 2, 2, 80)))

"""Shapes of the ResNets, without a weight in memory."""

import jax
import jax.numpy as jnp
import pytest

from jaxseg.backbones.resnet import resnet


def shapes(net, size=64):
    pixels = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    outputs, _ = jax.eval_shape(net.init_with_output, jax.random.key(0), pixels)
    return [output.shape for output in outputs]


@pytest.mark.parametrize(("depth", "channels"), [(18, 512), (34, 512), (50, 2048), (101, 2048)])
def test_the_last_stage_has_stride_32_or_16_dilated(depth, channels):
    assert shapes(resnet(depth)) == [(1, 2, 2, channels)]
    assert shapes(resnet(depth, dilation=True)) == [(1, 4, 4, channels)]


def test_every_stage_doubles_the_width_of_the_stem():
    net = resnet(18, "group_norm", width=16, stages=(0, 1, 2, 3))
    assert shapes(net) == [(1, 16, 16, 16), (1, 8, 8, 32), (1, 4, 4, 64), (1, 2, 2, 128)]
    assert net.strides == (4, 8, 16, 32)


def test_an_unknown_size_or_norm_names_those_there_are():
    with pytest.raises(ValueError, match=r"no ResNet-19; there are \[18, 34, 50, 101\]"):
        resnet(19)
    with pytest.raises(ValueError, match="no norm 'batch_norm'"):
        resnet(18, "batch_norm")

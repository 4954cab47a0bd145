"""The simple feature pyramid: sizes, torch's layers one after the other, canvases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxseg.backbones.vit import ViT, vit_b
from jaxseg.necks.simple_feature_pyramid import PyramidBackbone, SimpleFeaturePyramid
from jaxseg_convert_torch import to_state_dict
from tests.backbones.canvas import assert_canvas_exact
from tests.quick import quick_jit
from tests.weights import draw

SMALL = {
    "width": 16,
    "depth": 1,
    "num_heads": 2,
    "global_blocks": (0,),
    "patch": 8,
    "image_size": 64,
    "position_size": 40,
}


def test_levels_have_their_strides_and_one_width():
    net = PyramidBackbone(vit_b(depth=1), SimpleFeaturePyramid(extra_level=True))
    assert net.strides == (4, 8, 16, 32, 64)
    pixels = jax.ShapeDtypeStruct((1, 128, 64, 3), jnp.float32)
    levels, _ = jax.eval_shape(net.init_with_output, jax.random.key(0), pixels)
    assert [x.shape for x in levels] == [(1, 128 // s, 64 // s, 256) for s in net.strides]


def test_an_unknown_factor_is_refused():
    with pytest.raises(ValueError, match="factors are of"):
        SimpleFeaturePyramid(factors=(3,)).init(jax.random.key(0), jnp.zeros((1, 2, 2, 4)))


class ChannelNorm(torch.nn.LayerNorm):
    """Layer normalisation over the channels of (b, c, h, w)."""

    def __init__(self, width):
        super().__init__(width, eps=1e-6)

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class NormedConv(torch.nn.Conv2d):
    """A convolution without bias, and its norm."""

    def __init__(self, width, out, kernel):
        super().__init__(width, out, kernel, padding=kernel // 2, bias=False)
        self.norm = ChannelNorm(out)

    def forward(self, x):
        return self.norm(super().forward(x))


def torch_pyramid(width, out):
    """The layers of the paper, in the order of the published checkpoints."""
    nn = torch.nn
    up = {
        2: [
            nn.ConvTranspose2d(width, width // 2, 2, stride=2),
            ChannelNorm(width // 2),
            nn.GELU(),
            nn.ConvTranspose2d(width // 2, width // 4, 2, stride=2),
        ],
        3: [nn.ConvTranspose2d(width, width // 2, 2, stride=2)],
        4: [],
        5: [nn.MaxPool2d(2, 2)],
    }
    widths = {2: width // 4, 3: width // 2, 4: width, 5: width}
    levels = {
        f"simfp_{n}": nn.Sequential(*layers, NormedConv(widths[n], out, 1), NormedConv(out, out, 3))
        for n, layers in up.items()
    }
    return nn.ModuleDict(levels)


def test_the_levels_are_those_of_torchs_layers():
    net = PyramidBackbone(ViT(**SMALL), SimpleFeaturePyramid(6, extra_level=True))
    pixels = jnp.asarray(np.random.default_rng(0).normal(size=(1, 40, 56, 3)), jnp.float32)
    params = draw(net, pixels)
    state = to_state_dict("vit.pyramid", params)
    theirs = torch_pyramid(16, 6)
    levels = {k: torch.from_numpy(v.copy()) for k, v in state.items() if k.startswith("simfp")}
    theirs.load_state_dict(levels)
    with jax.default_matmul_precision("highest"):
        (x,) = quick_jit(net.net.apply)({"params": params["net"]}, pixels)
        ours = quick_jit(net.pyramid.apply)({"params": params["pyramid"]}, x)
    with torch.no_grad():
        wanted = [
            level(torch.from_numpy(np.array(x)).permute(0, 3, 1, 2)) for level in theirs.values()
        ]
    wanted.append(torch.nn.functional.max_pool2d(wanted[-1], 1, stride=2))
    for mine, other in zip(ours, wanted, strict=True):
        np.testing.assert_allclose(mine, other.permute(0, 2, 3, 1), atol=2e-5)


def test_an_image_has_the_same_levels_on_any_canvas():
    net = PyramidBackbone(ViT(**SMALL), SimpleFeaturePyramid(6, extra_level=True))
    assert_canvas_exact(net, [(45, 70), (53, 17)], [(64, 96)])

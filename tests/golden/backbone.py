"""Kinds `backbone/*`."""

import jax.numpy as jnp
import numpy as np

from jaxseg.backbones.resnet import NORMS, ResNet
from jaxseg.backbones.swin import Swin
from jaxseg.ops.images import resize_mask
from jaxseg.ops.windows import shift_regions
from jaxseg_convert_torch import load_state_dict
from tests.golden.common import case_images, expect, nchw, padding
from tests.quick import quick_jit


def resnet(case, inputs) -> dict:
    """`backbone/resnet`: stage outputs and masks, plain and dilated."""
    spec, weights = case.spec, case.weights()
    return {
        name: _forward(spec["config"] | run.get("options", {}), run, spec, inputs, weights)
        for name, run in spec["runs"].items()
    }


def _forward(config, run, spec, inputs, weights) -> dict:
    images = case_images(spec, inputs, run["inputs"]["images"])
    model = build_resnet(config)
    params = load_state_dict("resnet", weights, model)
    maps = model.apply({"params": params}, images.pixels)
    tensors = {}
    for stage, x in zip(config["backbone_stages"], maps, strict=True):
        tensors[f"backbone.features.{stage}"] = nchw(x)
        tensors[f"backbone.mask.{stage}"] = padding(resize_mask(images.mask, *x.shape[1:3]))
    return tensors


def build_resnet(config) -> ResNet:
    """The ResNet of a case's config."""
    sizes = config["resnet"]
    expect(config, backbone_norm="frozen batch norm", backbone_norm_eps=1e-5)
    expect(sizes, widths=[64, 128, 256, 512], stem_width=64, stride_in="conv2")
    expect(sizes, stem_pool_padding="-inf", conv_padding="symmetric")
    return ResNet(
        depths=tuple(sizes["depths"]),
        bottleneck=sizes["expansion"] == 4,
        dilation=config["dilation"],
        stages=tuple(config["backbone_stages"]),
        norm=NORMS["frozen_batch_norm"],
    )


def swin(case, inputs) -> dict:
    """`backbone/swin`: patch embedding, stage outputs and the first stage's shift mask."""
    spec, weights = case.spec, case.weights()
    runs = spec.get("runs", {None: {}})
    return {name: _swin_forward(spec, run, inputs, weights) for name, run in runs.items()}


def _swin_forward(spec, run, inputs, weights) -> dict:
    config, options = dict(spec["config"]), run.get("options", {})
    own = {k: v for k, v in options.items() if k in config["swin"]}
    config |= options | {"swin": config["swin"] | options.get("swin", {}) | own}
    images = case_images(spec, inputs, run.get("inputs", {}).get("images"))
    model = build_swin(config)
    params = load_state_dict("swin", weights, model)

    def named(module, method):
        return method == "__call__" and module.name == "patch_norm"

    @quick_jit
    def forward(pixels):
        return model.apply({"params": params}, pixels, capture_intermediates=named)

    maps, state = forward(images.pixels)
    (patches,) = state["intermediates"]["patch_norm"]["__call__"]
    tensors = {"patch_embed": nchw(patches)}
    for stage, x in zip(model.stages, maps, strict=True):
        tensors[f"backbone.features.{stage}"] = nchw(x)
    sizes = jnp.array([patches.shape[1:3]])
    labels = shift_regions(sizes, *patches.shape[1:3], model.window, model.window // 2)[0]
    tensors["shift_mask.0"] = np.asarray(labels[:, :, None] != labels[:, None, :])
    return tensors


def build_swin(config, **fields) -> Swin:
    """The Swin of a case's config; `fields` are others of `Swin`."""
    expect(config, train=False)
    sizes = config["swin"]
    expect(sizes, patch_size=4, in_chans=3, qkv_bias=True, qk_scale=None, patch_norm=True)
    expect(sizes, drop_rate=0.0, attn_drop_rate=0.0, shift_size=sizes["window_size"] // 2)
    expect(sizes, layer_norm_eps=1e-5, activation="gelu", gelu_approximate="none")
    expect(sizes, shift_mask_value=-100.0, shift_when_map_fits_window=True)
    expect(sizes, window_padding="zeros after norm1", window_padding_masked=False)
    stages = list(sizes["out_indices"])
    expect(sizes, out_norms=stages)
    model = Swin(
        width=sizes["embed_dim"],
        depths=tuple(sizes["depths"]),
        num_heads=tuple(sizes["num_heads"]),
        window=sizes["window_size"],
        mlp_ratio=sizes["mlp_ratio"],
        stages=tuple(stages),
        dilation=sizes["dilation"],
        drop_path=sizes["drop_path_rate"],
        position_size=sizes["pretrain_img_size"] if sizes["ape"] else None,
        **fields,
    )
    expect(config, backbone_strides=list(model.strides), backbone_stages=stages)
    return model


KINDS = {"backbone/resnet": resnet, "backbone/swin": swin}

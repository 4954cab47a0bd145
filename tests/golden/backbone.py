"""Kinds `backbone/*`."""

from jaxseg.backbones.resnet import NORMS, ResNet
from jaxseg.ops.images import resize_mask
from jaxseg_convert_torch import load_state_dict
from tests.golden.common import case_images, expect, nchw, padding


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


KINDS = {"backbone/resnet": resnet}

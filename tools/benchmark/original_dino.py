"""A training step of the original PyTorch DINO, for `dino_step.py` to time beside ours.

Imports models of a checkout of github.com/IDEA-Research/DINO as they are and gives them what they
need on a CPU: the repository's own sampling in PyTorch in place of its CUDA extension, the few
names it takes from torchvision and timm, tensors that stay where they are when sent to CUDA,
position encodings of queries for widths other than 256, and a ResNet-18 with group norm.
"""

import argparse
import runpy
import sys
import types
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

# The configuration of configs/dino/bccd_reference.py in the original's terms.
CHANGES = {
    "num_classes": 3,
    "dn_labelbook_size": 3,
    "hidden_dim": 128,
    "dim_feedforward": 512,
    "enc_layers": 2,
    "dec_layers": 3,
    "num_queries": 100,
    "num_select": 100,
    "dn_number": 50,
    "dn_box_noise_scale": 1.0,
    "device": "cpu",
}


def original_step(folder: str, pixels: np.ndarray, targets: list[dict]) -> Callable:
    """A function that takes one step of the original's training loop.

    Args:
      folder: a checkout of the original.
      pixels: normalised images (b, h, w, 3).
      targets: of each image, `labels` (n,) and `boxes` (n, 4) as (cx, cy, w, h) in [0, 1].
    """
    _stand_in(folder)
    from models.dino import backbone, deformable_transformer, dino
    from models.dino.position_encoding import build_position_encoding
    from util.misc import NestedTensor

    values = runpy.run_path(f"{folder}/config/DINO/DINO_4scale.py")
    names = {name: value for name, value in values.items() if not name.startswith("__")}
    arguments = argparse.Namespace(**names | CHANGES)

    def build_backbone(arguments):
        joined = backbone.Joiner(_Features(), build_position_encoding(arguments))
        joined.num_channels = [128, 256, 512]
        return joined

    dino.build_backbone = build_backbone
    deformable_transformer.gen_sineembed_for_position = _encode_boxes
    torch.manual_seed(0)
    model, criterion, _ = dino.build_dino(arguments)
    model.train()
    criterion.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-4, weight_decay=1e-4)
    average = [parameter.detach().clone() for parameter in model.parameters()]
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    batch = NestedTensor(images, torch.zeros(images[:, 0].shape, dtype=torch.bool))
    targets = [{name: torch.from_numpy(value) for name, value in t.items()} for t in targets]

    def step():
        losses = criterion(model(batch, targets), targets)
        weights = criterion.weight_dict
        loss = sum(losses[name] * weights[name] for name in losses if name in weights)
        if not torch.isfinite(loss):
            raise FloatingPointError("the original's loss is not finite")
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, list(model.parameters()), 0.002)

    step.parameters = sum(parameter.numel() for parameter in model.parameters())
    return step


def _encode_boxes(boxes):
    """(q, b, 4) boxes as sines and cosines of y, x, w, h: (q, b, 2 × hidden_dim)."""
    features = CHANGES["hidden_dim"] // 2
    divisors = 10000 ** (2 * (torch.arange(features) // 2) / features)
    angles = 2 * torch.pi * boxes[..., [1, 0, 2, 3], None] / divisors
    waves = torch.stack([angles[..., 0::2].sin(), angles[..., 1::2].cos()], -1)
    return waves.flatten(-3)


class _Block(nn.Module):
    def __init__(self, before: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.norm1 = nn.GroupNorm(32, width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = nn.GroupNorm(32, width)
        self.shortcut = nn.Identity()
        if before != width:
            convolution = nn.Conv2d(before, width, 1, stride, bias=False)
            self.shortcut = nn.Sequential(convolution, nn.GroupNorm(32, width))

    def forward(self, x):
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class _Features(nn.Module):
    """ResNet-18 with group norm; gives the last three stages as the original's backbones do."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False),
            nn.GroupNorm(32, 64),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
        )
        widths = [(64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)]
        self.stages = nn.ModuleList(
            nn.Sequential(_Block(before, width, stride), _Block(width, width, 1))
            for before, width, stride in widths
        )

    def forward(self, batch):
        x, found = self.stem(batch.tensors), {}
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i > 0:
                mask = nn.functional.interpolate(batch.mask[None].float(), size=x.shape[-2:])
                found[str(i)] = type(batch)(x, mask.to(torch.bool)[0])
        return found


def _stand_in(folder: str) -> None:
    """What the original imports and a CPU without torchvision does not have."""
    sys.path.insert(0, folder)

    def module(name: str, **members) -> None:
        made = types.ModuleType(name)
        vars(made).update(members)
        sys.modules[name] = made

    def area(boxes):
        return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])

    module("torchvision", __version__="0.20")
    module("torchvision.ops")
    module("torchvision.ops.boxes", nms=None, box_area=area)
    module("torchvision.models")
    module("torchvision.models._utils", IntermediateLayerGetter=None)
    module("timm")
    module("timm.models")
    module("timm.models.layers", DropPath=None, to_2tuple=None, trunc_normal_=None)
    module("MultiScaleDeformableAttention")
    torch.Tensor.cuda = lambda tensor, *_, **__: tensor
    to = torch.Tensor.to
    torch.Tensor.to = lambda tensor, *to_what, **how: (
        tensor if to_what[:1] == ("cuda",) else to(tensor, *to_what, **how)
    )
    from models.dino.ops.functions import ms_deform_attn_func
    from models.dino.ops.modules import ms_deform_attn

    class Sampling:
        @staticmethod
        def apply(value, shapes, starts, locations, weights, step):
            del starts, step
            sample = ms_deform_attn_func.ms_deform_attn_core_pytorch
            return sample(value, shapes.tolist(), locations, weights)

    ms_deform_attn.MSDeformAttnFunction = Sampling

"""Segment Anything's original PyTorch code, for `sam_vs_torch.py` to time beside ours.

Imports a checkout of github.com/facebookresearch/segment-anything as it is and gives it the three
functions that it takes from torchvision, written with Pillow, NumPy and PyTorch.
"""

import sys
import types

import numpy as np
import torch
from PIL import Image


def import_original(folder: str):
    """The package `segment_anything` of a checkout."""
    sys.path.insert(0, folder)
    _module("torchvision")
    _module("torchvision.ops")
    _module("torchvision.ops.boxes", batched_nms=_nms, box_area=_area)
    _module("torchvision.transforms")
    _module(
        "torchvision.transforms.functional",
        resize=lambda image, size: image.resize(size[::-1], Image.Resampling.BILINEAR),
        to_pil_image=Image.fromarray,
    )
    import segment_anything

    return segment_anything


def _module(name: str, **members) -> None:
    made = types.ModuleType(name)
    vars(made).update(members)
    sys.modules[name] = made


def _area(boxes):
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _nms(boxes, scores, classes, iou_threshold):
    """Of one class, best first; each step takes all other boxes at once."""
    del classes
    order = np.argsort(-scores.numpy(), kind="stable")
    boxes = boxes.numpy().astype(np.float64)[order]
    areas = _area(boxes)
    alive, kept = np.ones(len(boxes), bool), []
    for i in range(len(boxes)):
        if not alive[i]:
            continue
        kept.append(order[i])
        low = np.maximum(boxes[i, :2], boxes[:, :2])
        high = np.minimum(boxes[i, 2:], boxes[:, 2:])
        shared = np.prod(np.maximum(high - low, 0), 1)
        with np.errstate(invalid="ignore", divide="ignore"):
            alive &= ~(shared / (areas[i] + areas - shared) > iou_threshold)
    return torch.as_tensor(np.asarray(kept, int))

"""Kinds `sam/*` without weights: images and masks between frames, and what automatic masks need."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.data.segmentation import encode_mask, run_lengths
from jaxseg.ops.images import normalize
from jaxseg.ops.masks import masks_to_boxes, stability_score
from jaxseg.ops.nms import nms
from jaxseg.predict.canvas import Canvas
from jaxseg.predict.crops import Crop, make_crops, near_crop_edge, point_grid, point_grids
from jaxseg.predict.preprocess import load_image
from jaxseg.predict.regions import remove_small_regions
from tests.golden.common import expect, nchw
from tests.golden.sam import name_masks


def preprocess(case, inputs) -> dict:
    """`sam/preprocess`: to the model's frame and back."""
    config, tensors = case.spec["config"], {}
    expect(config["image"], mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
    expect(config["tensor_resize"], filter="bilinear", align_corners=False, antialias=True)
    expect(config["postprocess"], filter="bilinear", align_corners=False, antialias=False)
    canvas = Canvas(config["image"]["resize"]["long_side"])
    for name, run in case.spec["runs"].items():
        size = tuple(run["options"]["original_size"])
        given = {role: inputs[source] for role, source in run["inputs"].items()}
        image = load_image(given["image"])
        resized = canvas.resize(image)
        # No predictor resizes so; it is JAX's own function that is compared here.
        as_tensor = jax.image.resize(
            image.astype(np.float32), (*resized.shape[:2], 3), "linear", antialias=True
        )
        tensors[name] = {
            "input_size": canvas.resized_size(size),
            "resized": resized,
            "tensor_resized": as_tensor,
            "model_input": nchw(normalize(canvas.place([resized])).pixels),
            "coords": canvas.points(given["points"], size),
            "boxes": canvas.boxes(given["boxes"], size),
        } | name_masks(canvas.original(given["low_res_logits"], size))
    return tensors


def utils(case, inputs) -> dict:
    """`sam/utils`: each run calls one function."""
    config = case.spec["config"]
    expect(config, mask_threshold=0.0, connectivity=8)
    expect(config["nms"], drop="IoU > iou_threshold", ties="input order", classes=None)
    tensors = {}
    for name, run in case.spec["runs"].items():
        given = {role: inputs[source] for role, source in run.get("inputs", {}).items()}
        tensors[name] = CALLS[run["call"]](**given, **run.get("options", {}))
    return tensors


def _stability(logits, mask_threshold, threshold_offset):
    score = stability_score(jnp.asarray(logits), mask_threshold, threshold_offset)
    return {"stability_score": score}


def _runs(masks):
    runs = [run_lengths(mask) for mask in masks]
    return {
        "rle_counts": np.concatenate(runs),
        "rle_lengths": [len(one) for one in runs],
        "area": [one[1::2].sum() for one in runs],
        "coco_rle_counts": [encode_mask(mask)["counts"] for mask in masks],
    }


def _small_regions(mask, steps):
    changed = []
    for step in steps:
        mask, one = remove_small_regions(mask, step["area_threshold"], step["mode"])
        changed.append(one)
    return {"mask": mask, "changed": changed}


def _crops(image_size, n_layers, overlap_ratio):
    crops = make_crops(tuple(image_size), n_layers, overlap_ratio)
    return {"crop_boxes": [c.box for c in crops], "layers": [c.layer for c in crops]}


def _nms(boxes, scores, iou_threshold):
    keep = np.asarray(nms(jnp.asarray(boxes), jnp.asarray(scores), iou_threshold))
    order = np.argsort(-scores, kind="stable")
    return {"keep": order[keep[order]]}


def _crop(box) -> Crop:
    return Crop(tuple(box), 0)


CALLS = {
    "stability_score": _stability,
    "mask_to_box": lambda masks: {"boxes": masks_to_boxes(jnp.asarray(masks))},
    "mask_to_rle": _runs,
    "remove_small_regions": _small_regions,
    "point_grid": lambda n_per_side: {"points": point_grid(n_per_side)},
    "layer_point_grids": lambda n_per_side, n_layers, scale_per_layer: {
        "sizes": [len(grid) for grid in point_grids(n_per_side, n_layers, scale_per_layer)]
    },
    "crop_boxes": _crops,
    "is_box_near_crop_edge": lambda boxes, crop_box, image_box, tolerance: {
        "near_edge": near_crop_edge(boxes, crop_box, image_box, tolerance)
    },
    "uncrop_boxes": lambda boxes, crop_box: {"boxes": _crop(crop_box).uncrop(boxes)},
    "uncrop_points": lambda points, crop_box: {"points": _crop(crop_box).uncrop(points)},
    "uncrop_masks": lambda masks, crop_box, image_size: {
        "masks": _crop(crop_box).uncrop_mask(masks, tuple(image_size))
    },
    "nms": _nms,
}
KINDS = {"sam/preprocess": preprocess, "sam/utils": utils}

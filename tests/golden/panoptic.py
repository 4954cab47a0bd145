"""Kind `detr/panoptic`: the mask head, and panoptic post-processing."""

import numpy as np

from jaxseg.models.detr.builders import segmentation
from jaxseg.models.detr.segments import panoptic_segments
from jaxseg_convert_torch import load_state_dict
from tests.golden.common import case_images, compute, expect, nchw, padding
from tests.golden.detr import build, describe, gradient_scalar, name_gradient, name_outputs


def panoptic(case, inputs) -> dict:
    """`detr/panoptic`: runs are named by what they call."""
    calls = {"forward": _forward, "panoptic postprocess": _postprocess}
    return {name: calls[run["call"]](case, run, inputs) for name, run in case.spec["runs"].items()}


def _forward(case, run, inputs) -> dict:
    config = case.spec["config"]
    expect(run.get("options", {}), train=False)
    detector = build_segmentation(config)
    params = load_state_dict("detr.segmentation", case.weights(), detector)
    images = case_images(case.spec, inputs, run["inputs"]["images"])

    def forward(params):
        return detector.apply({"params": params}, images)

    def named(output):
        return name_outputs(output) | {"pred_masks": detector.mask_logits(output)}

    output, gradient = compute(forward, params, gradient_scalar(config, named))
    tensors = describe(output) | name_gradient("detr.segmentation", gradient)
    for stage, x, mask in zip(
        config["backbone_stages"], output.features.maps, output.features.masks, strict=True
    ):
        tensors[f"backbone.features.{stage}"] = nchw(x)
        tensors[f"backbone.mask.{stage}"] = padding(mask)
    maps = np.asarray(output.extras["attention_maps"])  # b q h w head
    return tensors | {
        "bbox_attention": np.moveaxis(maps, -1, 2),
        "pred_masks": detector.mask_logits(output),
    }


def build_segmentation(config):
    """The DETR with masks of a case's config."""
    heads = config["nheads"]
    expect(config, masks=True, mask_head_group_norm_groups=8, mask_head_group_norm_eps=1e-5)
    expect(config, bbox_attention_heads=heads, backbone_stages=[0, 1, 2, 3])
    expect(config, bbox_attention_softmax="over heads and positions jointly")
    nearest = {"filter": "nearest", "source_index": "floor(i * in / out)"}
    expect(config, mask_head_upsample=nearest)
    return build(config | {"masks": False, "backbone_stages": [3]}, segmentation)


def _postprocess(case, run, inputs) -> dict:
    options = run["options"]
    given = {role: np.asarray(inputs[source]) for role, source in run["inputs"].items()}
    k = given["pred_logits"].shape[-1]
    expect(options, no_object_class=k - 1)
    expect(options, merge_stuff_of_one_class="before the first area count only")
    bilinear = {"filter": "bilinear", "align_corners": False, "antialias": False}
    expect(options, mask_resize=bilinear | {"to": "processed_size"})
    resize = options.get("id_resize", {"filter": "nearest", "to": "target_size"})
    expect(resize, filter="nearest", to="target_size")
    things = [label in set(options["thing_classes"]) for label in range(k - 1)]
    tensors = {}
    for i in range(len(given["pred_logits"])):
        size, target = (tuple(map(int, given[n][i])) for n in ("processed_size", "target_size"))
        found = panoptic_segments(
            given["pred_logits"][i],
            given["pred_masks"][i],
            covers=size,
            size=size,
            original=target,
            things=things,
            threshold=options["threshold"],
            small=options["max_area_dropped"],
        )
        rows = [(n, things[x], x) for n, x in enumerate(found.labels.tolist())]
        tensors[f"ids.{i}"] = found.ids
        tensors[f"segments.{i}"] = np.asarray(rows, np.int64).reshape(-1, 3)
        tensors[f"areas.{i}"] = found.areas
    return tensors


KINDS = {"detr/panoptic": panoptic}

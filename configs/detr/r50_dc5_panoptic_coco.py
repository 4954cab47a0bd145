"""The second stage of DETR-DC5-R50 with masks: its mask head (arXiv 2005.12872, section 4.4).

    jaxseg train detr/r50_dc5_panoptic_coco init=runs/detr/r50_dc5_panoptic_boxes_coco/best \\
        data.train=panoptic:/data/coco/train2017 data.val=panoptic:/data/coco/val2017

`init` is the first stage; its weights stay as they are. The mask head has 1.33 M parameters.

Hardware: that of detr/r50_panoptic_coco and more memory. model.mask_head.queries_at_once=25
computes fewer masks at a time where it is short.
Expected: 44.6 PQ on val2017 (the paper's figure; not measured here).
"""

from jaxseg.models import detr
from jaxseg.train.experiment import Experiment
from jaxseg_configs.detr._recipe import masks


def experiment() -> Experiment:
    return masks(detr.r50_dc5_panoptic(), "panoptic", metric="PQ")

"""DETR-R50 with masks of COCO's objects: a mask head for a detector that is there already.

    jaxseg train detr/r50_instance_coco init=facebook/detr-resnet-50 \\
        data.train=coco:/data/coco/train2017 data.val=coco:/data/coco/val2017

`init` is a DETR-R50 of the 80 categories; its weights stay as they are. For a data set of your own
give a detector that was trained on it, data.numbering=contiguous and model.num_classes=0.

Hardware: 8 accelerators with 2 images each. model.mask_head.queries_at_once=25 computes fewer
masks at a time where memory is short.
Expected: not measured here. The paper's panoptic model has 31.1 mask AP on val2017.
"""

from jaxseg.models import detr
from jaxseg.train.experiment import Experiment
from jaxseg_configs.detr._recipe import masks


def experiment() -> Experiment:
    return masks(detr.r50_instance(), "coco", metric="mask_AP")

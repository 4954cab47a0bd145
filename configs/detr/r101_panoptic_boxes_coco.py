"""The first stage of DETR-R101 with masks: boxes of COCO's things and stuff, 500 epochs.

    jaxseg train detr/r101_panoptic_boxes_coco data.train=panoptic:/data/coco/train2017 \\
        data.val=panoptic:/data/coco/val2017 backbone=resnet101.pth

`backbone` is torchvision's ImageNet file (version 1 of its weights). The data set is COCO's
annotations/panoptic_train2017.json with the folder of its PNG files. The second stage is
detr/r101_panoptic_coco.

Hardware: the paper's 16 V100, three days for the 300 epochs of its ablations.
Fewer devices take accumulate=4 and the same batch.
Expected: 40.1 box AP on val2017 (the repository's figure for the panoptic model, whose boxes come
of this stage; not measured here).
"""

from jaxseg.models import detr
from jaxseg.train.experiment import Experiment
from jaxseg_configs.detr._recipe import panoptic_boxes


def experiment() -> Experiment:
    return panoptic_boxes(detr.r101(num_classes=250))

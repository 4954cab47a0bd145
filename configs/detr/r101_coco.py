"""DETR-R101 on COCO, the paper's 500 epochs (arXiv 2005.12872, table 1).

    jaxseg train detr/r101_coco data.train=coco:/data/coco/train2017 \\
        data.val=coco:/data/coco/val2017 backbone=resnet101.pth

`backbone` is torchvision's ImageNet file (version 1 of its weights).

Hardware: the paper's 16 V100, three days for the 300 epochs of its ablations.
Fewer devices take accumulate=4 and the same batch.
Expected: 43.5 AP on val2017 (the paper's figure; not measured here).
"""

from jaxseg.models import detr
from jaxseg.train.experiment import Experiment
from jaxseg_configs.detr._recipe import coco


def experiment() -> Experiment:
    return coco(detr.r101())

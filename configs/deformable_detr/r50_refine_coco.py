"""Deformable DETR-R50 with iterative refinement on COCO, 50 epochs (arXiv 2010.04159).

    jaxseg train deformable_detr/r50_refine_coco data.train=coco:/data/coco/train2017 \
        data.val=coco:/data/coco/val2017 backbone=resnet50.pth

`backbone` is torchvision's ImageNet file (version 1 of its weights).

Hardware: the authors' 16 V100, 2 images each.
Fewer devices take accumulate=4 and the same batch.
Expected: 46.2 AP on val2017 (the authors' figure; not measured here).
"""

from jaxseg.models import deformable_detr
from jaxseg.train.experiment import Experiment
from jaxseg_configs.deformable_detr._recipe import coco


def experiment() -> Experiment:
    return coco(deformable_detr.r50_refine())

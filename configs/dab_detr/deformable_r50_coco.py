"""DAB-Deformable-DETR-R50 on COCO, 50 epochs (arXiv 2201.12329).

    jaxseg train dab_detr/deformable_r50_coco data.train=coco:/data/coco/train2017 \
        data.val=coco:/data/coco/val2017 backbone=resnet50.pth

`backbone` is torchvision's ImageNet file (version 1 of its weights).

Hardware: the authors' 8 A100, 2 images each.
Fewer devices take accumulate=4 and the same batch.
Expected: 48.1 AP on val2017 (the authors' figure; not measured here). Their later 48.7 came of
other weights of the losses.
"""

from jaxseg.models import dab_deformable_detr
from jaxseg.train.experiment import Experiment
from jaxseg_configs.dab_detr._recipe import coco


def experiment() -> Experiment:
    return coco(dab_deformable_detr.r50())

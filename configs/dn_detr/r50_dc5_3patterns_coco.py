"""DN-DETR-DC5-R50 with 3 patterns on COCO, 12 epochs (arXiv 2203.01305).

    jaxseg train dn_detr/r50_dc5_3patterns_coco data.train=coco:/data/coco/train2017 \
        data.val=coco:/data/coco/val2017 backbone=resnet50.pth

`backbone` is torchvision's ImageNet file (version 1 of its weights).

Hardware: the authors' 16 GPUs, 1 image each.
Fewer devices take accumulate=4 and the same batch.
Expected: 41.7 AP on val2017 (the authors' figure; not measured here).
"""

from jaxseg.models import dn_detr
from jaxseg.train.experiment import Experiment
from jaxseg_configs.dab_detr._recipe import coco


def experiment() -> Experiment:
    return coco(dn_detr.r50_dc5_3patterns(), denoising=True, epochs=12)

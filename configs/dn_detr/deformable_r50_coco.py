"""DN-DAB-Deformable-DETR-R50 on COCO, 50 epochs (arXiv 2203.01305).

    jaxseg train dn_detr/deformable_r50_coco data.train=coco:/data/coco/train2017 \
        data.val=coco:/data/coco/val2017 backbone=resnet50.pth

`backbone` is torchvision's ImageNet file (version 1 of its weights).

Hardware: the authors' 8 A100, 2 images each.
Fewer devices take accumulate=4 and the same batch.
Expected: 49.5 AP on val2017 (the authors' figure for their second version, which is this one; not
measured here).
"""

from jaxseg.models import dn_detr
from jaxseg.train.experiment import Experiment
from jaxseg_configs.dab_detr._recipe import coco


def experiment() -> Experiment:
    return coco(dn_detr.deformable_r50(), denoising=True)

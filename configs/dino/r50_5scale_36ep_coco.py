"""DINO-R50, 5 scales on COCO, 36 epochs (arXiv 2203.03605).

    jaxseg train dino/r50_5scale_36ep_coco data.train=coco:/data/coco/train2017 \
        data.val=coco:/data/coco/val2017 backbone=resnet50.pth

`backbone` is torchvision's ImageNet file (version 1 of its weights).

Hardware: the authors' 16 A100, 1 image each.
Fewer devices take accumulate=4 and the same batch.
Expected: 51.2 AP on val2017 (the authors' figure; not measured here).
"""

from jaxseg.models import dino
from jaxseg.train.experiment import Experiment
from jaxseg_configs.dino._recipe import coco


def experiment() -> Experiment:
    return coco(dino.r50_5scale(), epochs=36, images=1)

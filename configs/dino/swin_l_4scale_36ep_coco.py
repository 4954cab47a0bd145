"""DINO-Swin-L, 4 scales on COCO, 36 epochs (arXiv 2203.03605).

    jaxseg train dino/swin_l_4scale_36ep_coco data.train=coco:/data/coco/train2017 \
        data.val=coco:/data/coco/val2017 backbone=swin_large_patch4_window12_384_22k.pth

`backbone` is Microsoft's file of ImageNet-22k weights.

Hardware: the authors' 8 A100, 2 images each.
Fewer devices take accumulate=4 and the same batch.
Expected: 58.0 AP on val2017 (the authors' figure; not measured here).
"""

from jaxseg.models import dino
from jaxseg.train.experiment import Experiment
from jaxseg_configs.dino._recipe import swin_coco


def experiment() -> Experiment:
    return swin_coco(dino.swin_l_4scale(), epochs=36)

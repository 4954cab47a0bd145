"""DAB-DETR-DC5-R50 with anchors spread evenly on COCO, 50 epochs (arXiv 2201.12329, appendix H).

    jaxseg train dab_detr/r50_dc5_fixed_xy_coco data.train=coco:/data/coco/train2017 \
        data.val=coco:/data/coco/val2017 backbone=resnet50.pth

`backbone` is torchvision's ImageNet file (version 1 of its weights). The paper keeps the anchors'
centres where they begin; the code that gave its figure trains them. model.anchors=fixed keeps them.

Hardware: the authors' 8 A100, 2 images each.
Fewer devices take accumulate=4 and the same batch.
Expected: 44.7 AP on val2017 (the authors' figure; not measured here).
"""

from jaxseg.models import dab_detr
from jaxseg.train.experiment import Experiment
from jaxseg_configs.dab_detr._recipe import coco


def experiment() -> Experiment:
    return coco(dab_detr.r50(dilation=True, anchors="uniform"))

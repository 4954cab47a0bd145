"""DAB-Deformable-DETR-R50, deformable in its encoder only, on COCO (arXiv 2203.01305, table 3).

    jaxseg train dab_detr/encoder_only_r50_coco data.train=coco:/data/coco/train2017 \
        data.val=coco:/data/coco/val2017 backbone=resnet50.pth

`backbone` is torchvision's ImageNet file (version 1 of its weights). Attention is deformable in
the encoder alone: each decoder layer reads all tokens of all levels, which takes much memory. It
is dn_detr/encoder_only_r50_coco without noised targets, 50 epochs.

Hardware: the 16 A100 of that one, 1 image each.
Fewer devices take accumulate=4 and the same batch; model.decoder.remat=True takes less memory.
Expected: 46.9 AP on val2017 (the authors' figure; not measured here).
"""

from jaxseg.models import dn_detr
from jaxseg.train.experiment import Experiment
from jaxseg_configs.dab_detr._recipe import coco


def experiment() -> Experiment:
    return coco(dn_detr.encoder_only_r50(denoising=False))

"""Go on from trained weights of DINO on a data set of one's own, in COCO form.

    jaxseg train dino/finetune init=WEIGHTS \
        data.train=cells/train.json data.val=cells/val.json

As `detr/finetune`, with the losses of DINO. `init` is a folder of `save_pretrained`
or of an earlier run, or an official file. A Swin
has no stem to freeze: optimizer.frozen=().

Hardware: one accelerator with 24 GB.
Expected: not measured here.
"""

from jaxseg.train.experiment import Experiment
from jaxseg_configs.detr import finetune
from jaxseg_configs.dino._recipe import BUCKETS, CRITERION


def experiment() -> Experiment:
    return finetune.with_anchors(CRITERION, BUCKETS, "class_embed|label_enc")

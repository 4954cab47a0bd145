"""Go on from trained weights of DAB-DETR on a data set of one's own, in COCO form.

    jaxseg train dab_detr/finetune init=WEIGHTS \
        data.train=cells/train.json data.val=cells/val.json

As `detr/finetune`, with the losses of DAB-DETR. `init` is a folder of `save_pretrained`
or of an earlier run, or an official file.

Hardware: one accelerator with 24 GB.
Expected: not measured here.
"""

from jaxseg.train.experiment import Experiment
from jaxseg_configs.dab_detr._recipe import BUCKETS, CRITERION
from jaxseg_configs.detr import finetune


def experiment() -> Experiment:
    return finetune.with_anchors(CRITERION, BUCKETS)

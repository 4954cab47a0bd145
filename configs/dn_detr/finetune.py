"""Go on from trained weights of DN-DETR on a data set of one's own, in COCO form.

    jaxseg train dn_detr/finetune init=WEIGHTS \
        data.train=cells/train.json data.val=cells/val.json

As `detr/finetune`, with the losses of DN-DETR. `init` is a folder of `save_pretrained`
or of an earlier run, or an official file.

Hardware: one accelerator with 24 GB.
Expected: not measured here.
"""

import dataclasses

from jaxseg.train.experiment import Experiment
from jaxseg_configs.dab_detr._recipe import BUCKETS, DENOISING_CRITERION
from jaxseg_configs.detr import finetune


def experiment() -> Experiment:
    base = finetune.experiment()
    # Both are drawn afresh for other classes.
    rates = (("class_embed|label_enc", 1.0), ("^backbone/", 0.01), ("", 0.1))
    return dataclasses.replace(
        base,
        data=dataclasses.replace(base.data, batch_size=4, buckets=BUCKETS),
        criterion=DENOISING_CRITERION,
        optimizer=dataclasses.replace(base.optimizer, learning_rates=rates),
    )

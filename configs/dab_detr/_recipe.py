"""The published training of DAB-DETR (arXiv 2201.12329) and DN-DETR (2203.01305) on COCO.

16 images a step, AdamW at 1e-4 and 1e-5 for the backbone, decay 1e-4 on everything, clipping at
0.1; 50 epochs with a drop by ten at 40, or 12 with a drop at 11 (of 24 epochs no drop is published;
20 is DINO's). Stem and first stage of the backbone stay as ImageNet left them. (DAB-DETR's own loop
never clears gradients, which its authors call a mistake of little effect; here they are cleared.)
"""

import dataclasses

from flax import linen as nn

from jaxseg.data.transforms import detr_augmentation
from jaxseg.losses.criterion import FocalClasses, SetCriterion
from jaxseg.train.experiment import Data, Experiment
from jaxseg.train.schedule import Schedule
from jaxseg_configs.dino._recipe import BUCKETS, OPTIMIZER, drop_of

CRITERION = SetCriterion(classes=FocalClasses(), cost_class=2.0, giou_epsilon=1e-6)
DENOISING_CRITERION = dataclasses.replace(CRITERION, denoising=True)
DROPS = {12: 11, 24: 20, 50: 40}


def coco(model: nn.Module, denoising: bool = False, epochs: int = 50) -> Experiment:
    """The recipe for one of the papers' models; 12, 24 or 50 epochs."""
    return Experiment(
        model=model,
        data=Data(
            train="coco:data/coco/train2017",
            val="coco:data/coco/val2017",
            numbering="raw",
            batch_size=16,
            buckets=BUCKETS,
            transform=detr_augmentation(),
            workers=8,
        ),
        criterion=DENOISING_CRITERION if denoising else CRITERION,
        optimizer=OPTIMIZER,
        schedule=Schedule("step", drops=(drop_of(epochs, DROPS),)),
        epochs=float(epochs),
    )

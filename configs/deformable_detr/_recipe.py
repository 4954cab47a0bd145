"""Deformable DETR's published training on COCO (arXiv 2010.04159, section 5 and appendix A.3).

32 images a step (16 V100 with 2 each), AdamW at 2e-4; a tenth of it for the backbone, for the
layer that places the first references and for those that place samples. 50 epochs with a drop
by ten at 40. Stem and first stage of the backbone stay as ImageNet left them.
"""

import dataclasses

from flax import linen as nn

from jaxseg.data.transforms import detr_augmentation
from jaxseg.losses.criterion import FirstStage, FocalClasses, SetCriterion
from jaxseg.train.experiment import Data, Experiment
from jaxseg.train.optim import Optimizer
from jaxseg.train.schedule import Schedule
from jaxseg_configs.dino._recipe import BUCKETS

CRITERION = SetCriterion(classes=FocalClasses(), cost_class=2.0, loss_ce=2.0)
TWO_STAGE_CRITERION = dataclasses.replace(
    CRITERION, first_stage=FirstStage("enc", class_agnostic=True)
)
OPTIMIZER = Optimizer(
    learning_rate=2e-4,
    weight_decay=1e-4,
    clip_norm=0.1,
    learning_rates=(("^backbone/", 0.1), ("/sampling_offsets/|^reference_points/", 0.1)),
    frozen=(("^backbone/(conv1|layer1_)", True),),
)


def coco(model: nn.Module, first_stage: bool = False) -> Experiment:
    """The recipe for one of the paper's models."""
    return Experiment(
        model=model,
        data=Data(
            train="coco:data/coco/train2017",
            val="coco:data/coco/val2017",
            numbering="raw",
            batch_size=32,
            buckets=BUCKETS,
            transform=detr_augmentation(),
            workers=8,
        ),
        criterion=TWO_STAGE_CRITERION if first_stage else CRITERION,
        optimizer=OPTIMIZER,
        schedule=Schedule("step", drops=(0.8,)),
        epochs=50.0,
    )

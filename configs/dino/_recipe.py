"""DINO's published training on COCO (arXiv 2203.03605, section 4.1 and appendix D).

16 images a step, AdamW at 1e-4 and 1e-5 for the backbone, decay 1e-4 on everything, clipping at
0.1; 12 epochs with a drop by ten after 11, 24 after 20, 36 after 30. Stem and first stage of a
ResNet stay as ImageNet left them, and so does all batch normalisation. The denoising groups are
those of a device's 2 images (1 with five scales), whatever the devices here: fewer images that
share them are more groups for each.
"""

import dataclasses
from collections.abc import Mapping

from flax import linen as nn

from jaxseg.data.transforms import detr_augmentation
from jaxseg.errors import UserError
from jaxseg.losses.criterion import FirstStage, FocalClasses, SetCriterion
from jaxseg.train.experiment import Data, Experiment
from jaxseg.train.optim import Optimizer
from jaxseg.train.schedule import Schedule

# Canvases (h, w), multiples of 64, the coarsest stride with five scales too: the augmented image
# has a short side of 480 to 800, a long one up to 1333.
LANDSCAPE = ((576, 768), (640, 896), (768, 1024), (832, 1088), (832, 1344))
BUCKETS = tuple(sorted({*LANDSCAPE, *((w, h) for h, w in LANDSCAPE), (832, 832)}))

CRITERION = SetCriterion(
    classes=FocalClasses(),
    cost_class=2.0,
    giou_epsilon=1e-6,
    first_stage=FirstStage("interm"),
    denoising=True,
)
OPTIMIZER = Optimizer(
    learning_rate=1e-4,
    weight_decay=1e-4,
    clip_norm=0.1,
    learning_rates=(("^backbone/", 0.1),),
    frozen=(("^backbone/(conv1|layer1_)", True),),
)
# A Swin has no batch normalisation, and nothing of it is frozen.
SWIN_OPTIMIZER = dataclasses.replace(OPTIMIZER, frozen=())
DROPS = {12: 11, 24: 20, 36: 30}


def drop_of(epochs: int, drops: Mapping[int, int]) -> float:
    """The part of a published run of so many epochs after which the rate drops.

    Raises:
      UserError: there is no such run.
    """
    if epochs not in drops:
        raise UserError(
            f"the published runs have {', '.join(map(str, drops))} epochs; got epochs={epochs}: "
            "take one of them, and give the experiment other epochs and another schedule"
        )
    return drops[epochs] / epochs


def coco(
    model: nn.Module, epochs: int = 12, optimizer: Optimizer = OPTIMIZER, images: int = 2
) -> Experiment:
    """The recipe for one of the paper's models; 12, 24 or 36 epochs.

    Args:
      images: of each of the authors' devices.
    """
    return Experiment(
        model=model.clone(dn_images=images),
        data=Data(
            train="coco:data/coco/train2017",
            val="coco:data/coco/val2017",
            numbering="raw",
            batch_size=16,
            buckets=BUCKETS,
            transform=detr_augmentation(),
            workers=8,
        ),
        criterion=CRITERION,
        optimizer=optimizer,
        schedule=Schedule("step", drops=(drop_of(epochs, DROPS),)),
        epochs=float(epochs),
    )


def swin_coco(model: nn.Module, epochs: int, images: int = 2) -> Experiment:
    """The same with a Swin, whose blocks the backward pass computes again, as the authors'."""
    model = model.clone(backbone=model.backbone.clone(remat=True))
    return coco(model, epochs, SWIN_OPTIMIZER, images)

"""DETR's published training on COCO (arXiv 2005.12872, section 4 and appendix A.4).

64 images a step in the paper (16 V100 with 4 each), AdamW at 1e-4 and 1e-5 for the backbone,
decay 1e-4 on everything, clipping at 0.1, 500 epochs with a drop by ten at 400. Stem and first
stage of the backbone stay as ImageNet left them, and so does all batch normalisation.

Masks are learnt afterwards (section 4.4): everything but the mask head is constant, 25 epochs with
a drop at 15, 16 images a step.
"""

import dataclasses

from flax import linen as nn

from jaxseg.data.transforms import detr_augmentation
from jaxseg.losses.criterion import SetCriterion
from jaxseg.train.experiment import Data, Experiment
from jaxseg.train.optim import Optimizer
from jaxseg.train.schedule import Schedule

# Canvases (h, w): the augmented image has a short side of 480 to 800, a long one up to 1333.
LANDSCAPE = ((544, 736), (640, 864), (736, 992), (800, 1088), (800, 1344))
BUCKETS = tuple(sorted({*LANDSCAPE, *((w, h) for h, w in LANDSCAPE), (800, 800)}))

OPTIMIZER = Optimizer(
    learning_rate=1e-4,
    weight_decay=1e-4,
    clip_norm=0.1,
    learning_rates=(("^backbone/", 0.1),),
    frozen=(("^backbone/(conv1|layer1_)", True),),
)


def coco(model: nn.Module) -> Experiment:
    """The recipe for one of the paper's models."""
    return Experiment(
        model=model,
        data=Data(
            train="coco:data/coco/train2017",
            val="coco:data/coco/val2017",
            numbering="raw",
            batch_size=64,
            buckets=BUCKETS,
            transform=detr_augmentation(),
            workers=8,
        ),
        optimizer=OPTIMIZER,
        schedule=Schedule("step", drops=(0.8,)),
        epochs=500.0,
    )


def panoptic_boxes(model: nn.Module) -> Experiment:
    """The first stage of a panoptic model: boxes of things and of stuff."""
    boxes = coco(model)
    data = dataclasses.replace(
        boxes.data, train="panoptic:data/coco/train2017", val="panoptic:data/coco/val2017"
    )
    return dataclasses.replace(boxes, data=data)


MASK_HEAD = "^(bbox_attention|mask_head)/"


def masks(model: nn.Module, source: str, metric: str) -> Experiment:
    """The second stage: the mask head alone, on the detector that `init` holds.

    A batch has 0.96 GiB of target masks (16 · 60 slots on 800 × 1344 pixels), in the process that
    trains and over its devices. What is loaded ahead is small beside it: in bits, and without
    empty slots. With 8 workers that is 3 to 7 GiB, half of it in /dev/shm; data.workers and
    data.max_targets make it less.

    Args:
      source: of the data, "coco" or "panoptic".
    """
    boxes = coco(model)
    data = dataclasses.replace(
        boxes.data,
        train=f"{source}:data/coco/train2017",
        val=f"{source}:data/coco/val2017",
        batch_size=16,
        masks=True,
        # A slot holds a canvas; hardly any image of COCO has more segments.
        max_targets=60,
    )
    return dataclasses.replace(
        boxes,
        data=data,
        # Earlier layers draw no masks, and nothing else has a gradient.
        criterion=SetCriterion(aux_loss=False),
        optimizer=Optimizer(
            learning_rate=1e-4,
            weight_decay=1e-4,
            clip_norm=0.1,
            frozen=((MASK_HEAD, False), ("", True)),
        ),
        load=((MASK_HEAD, False),),
        schedule=Schedule("step", drops=(0.6,)),
        epochs=25.0,
        metric=metric,
    )

"""Go on from trained weights on a data set of one's own, in COCO form.

    jaxseg train detr/finetune init=facebook/detr-resnet-50 \\
        data.train=cells/train.json data.val=cells/val.json

`init` is a folder of `save_pretrained` or of an earlier run, an official file, or a Hugging Face
id. The class head starts afresh where the classes are others, and learns ten times as fast as
the transformer and a hundred times as fast as the backbone, which keep what they know. The batch
may be raised with the devices; dtype=bfloat16 computes in half the memory (weights stay float32),
data.scale=0.5 on images of half the size.

Hardware: one accelerator with 16 GB.
Expected: not measured here.
"""

import dataclasses
from collections.abc import Sequence

from jaxseg.data.transforms import detr_augmentation
from jaxseg.losses.criterion import SetCriterion
from jaxseg.train.experiment import Data, Experiment
from jaxseg.train.optim import Optimizer
from jaxseg.train.schedule import Schedule
from jaxseg_configs.detr._recipe import BUCKETS


def experiment() -> Experiment:
    return Experiment(
        model=None,
        data=Data(
            train="data/train.json",
            val="data/val.json",
            batch_size=8,
            buckets=BUCKETS,
            transform=detr_augmentation(),
            workers=4,
        ),
        optimizer=Optimizer(
            learning_rate=1e-4,
            clip_norm=0.1,
            learning_rates=(("^class_embed/", 1.0), ("^backbone/", 0.01), ("", 0.1)),
            frozen=(("^backbone/(conv1|layer1_)", True),),
        ),
        schedule=Schedule("step", drops=(0.8,), warmup_steps=100),
        epochs=50.0,
    )


def with_anchors(
    criterion: SetCriterion, buckets: Sequence[tuple[int, int]], fresh: str = "class_embed"
) -> Experiment:
    """The same for a detector with anchors.

    Args:
      fresh: pattern of the parameters that are drawn afresh for other classes.
    """
    base = experiment()
    rates = ((fresh, 1.0), ("^backbone/", 0.01), ("", 0.1))
    return dataclasses.replace(
        base,
        data=dataclasses.replace(base.data, batch_size=4, buckets=buckets),
        criterion=criterion,
        optimizer=dataclasses.replace(base.optimizer, learning_rates=rates),
    )

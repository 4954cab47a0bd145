"""A small DETR on textured shapes that are made on the fly: no files, minutes on a CPU.

    jaxseg train detr/synthetic

Small images, a quarter of the usual channels, pre-norm layers and small batches: on a CPU many
cheap steps teach DETR more than few dear ones. Its classes come last, so they weigh more.

Hardware: two CPU cores, about four minutes.
Expected: AP50 0.27 on its validation images; from another seed 0.32.
"""

from jaxseg.checkpoints import ImageConfig
from jaxseg.data.transforms import RandomFlip
from jaxseg.losses.criterion import SetCriterion
from jaxseg.models import detr
from jaxseg.train.experiment import Data, Experiment
from jaxseg.train.optim import Ema, Optimizer
from jaxseg.train.schedule import Schedule

SIZE = 96
SHAPES = f"synthetic:shapes?size={SIZE}&objects=3&classes=3"
MODEL = {
    "num_classes": 0,
    "num_queries": 12,
    "stem": 16,
    "dilation": True,
    "feedforward": 256,
    "encoder_layers": 1,
    "pre_norm": True,
}


def experiment() -> Experiment:
    return Experiment(
        model=detr.tiny(**MODEL),
        data=Data(
            train=f"{SHAPES}&count=8000&seed=0",
            val=f"{SHAPES}&count=200&seed=1",
            batch_size=8,
            buckets=((SIZE, SIZE),),
            transform=RandomFlip(),
            image=ImageConfig(short_side=SIZE, long_side=SIZE),
            max_targets=4,
            eval_batch_size=40,
        ),
        criterion=SetCriterion(loss_ce=3.0),
        optimizer=Optimizer(
            learning_rate=7e-4, clip_norm=1.0, decays=((r"/(bias|scale|embedding)$", 0.0),)
        ),
        schedule=Schedule("cosine", warmup_steps=100, end=0.01),
        ema=Ema(0.998),
        steps=2600,
        evaluate_every=650,
        checkpoint_every=325,
        log_every=50,
        metric="AP50",
    )

"""A small DETR on textured shapes that are made on the fly: no files, a few minutes on a CPU.

    jaxseg train detr/synthetic

Hardware: two CPU cores.
Expected: not measured here; AP50 on unseen images rises above 0.15 (an aim).
"""

from jaxseg.checkpoints import ImageConfig
from jaxseg.data.transforms import RandomFlip
from jaxseg.models import detr
from jaxseg.train.experiment import Data, Experiment
from jaxseg.train.optim import Ema, Optimizer
from jaxseg.train.schedule import Schedule


def experiment() -> Experiment:
    return Experiment(
        model=detr.tiny(num_classes=0, num_queries=20),
        data=Data(
            train="synthetic:shapes?count=4000&seed=0&size=128&objects=4",
            val="synthetic:shapes?count=100&seed=1&size=128&objects=4",
            batch_size=16,
            buckets=((128, 128),),
            transform=RandomFlip(),
            image=ImageConfig(short_side=128, long_side=128),
            max_targets=8,
            eval_batch_size=20,
        ),
        optimizer=Optimizer(
            learning_rate=5e-4, clip_norm=1.0, decays=((r"/(bias|scale|embedding)$", 0.0),)
        ),
        schedule=Schedule("cosine", warmup_steps=50, end=0.01),
        ema=Ema(0.99),
        steps=800,
        evaluate_every=200,
        checkpoint_every=100,
        log_every=10,
        metric="AP50",
    )

"""A config file whose run takes seconds."""

CONFIG = """
from jaxseg.checkpoints import ImageConfig
from jaxseg.data.transforms import RandomFlip
from jaxseg.models import detr
from jaxseg.train.experiment import Data, Experiment
from jaxseg.train.schedule import Schedule

SHAPES = "synthetic:shapes?size=64&objects=2&count="


def experiment():
    return Experiment(
        model=detr.tiny(
            num_classes=0, width=16, num_heads=2, feedforward=32, encoder_layers=1,
            decoder_layers=1, num_queries=5,
        ),
        data=Data(
            train=SHAPES + "8&seed=0", val=SHAPES + "4&seed=1", batch_size=4, max_targets=4,
            buckets=((64, 64),), transform=RandomFlip(),
            image=ImageConfig(short_side=64, long_side=64),
        ),
        schedule=Schedule("cosine"),
        steps=3,
        evaluate_every=2,
        checkpoint_every=1,
        log_every=1,
    )
"""

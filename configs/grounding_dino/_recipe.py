"""Open-GroundingDino's training, which the paper's has to be read out of (arXiv 2303.05499, A).

AdamW at 1e-4; 1e-5 for both backbones, for what makes positions of references and for sampling
offsets; decay 1e-4 on everything, clipping at 0.1. Matching costs 1, 5, 2 for class, L1 and GIoU,
losses 2, 5, 2, on every decoder layer and on the encoder's proposals; nothing is denoised.
"""

from flax import linen as nn

from jaxseg.data.prompts import Prompts
from jaxseg.data.transforms import detr_augmentation
from jaxseg.losses.criterion import FirstStage, SetCriterion, TokenClasses
from jaxseg.models import grounding_dino
from jaxseg.train.experiment import Data, Experiment
from jaxseg.train.optim import Optimizer
from jaxseg.train.schedule import Schedule
from jaxseg_configs.dino._recipe import BUCKETS

VOCABULARY = "google-bert/bert-base-uncased"
CRITERION = SetCriterion(
    classes=TokenClasses(),
    loss_ce=2.0,
    giou_epsilon=1e-6,
    nonfinite_cost=0.0,
    first_stage=FirstStage("interm"),
)
SLOW = (
    ("^(backbone|bert)/", 0.1),
    ("ref_point_head|sampling_offsets", 0.1),
)
OPTIMIZER = Optimizer(learning_rate=1e-4, weight_decay=1e-4, clip_norm=0.1, learning_rates=SLOW)


# What no training set holds, by name.
ZERO_SHOT = {"coco": "coco:data/coco/val2017", "lvis": "data/lvis/lvis_v1_minival.json"}
OBJECTS365 = "odvg:data/objects365/o365_train_odvg.jsonl?label_map=data/objects365/label_map.json"


def objects365(**parts) -> Experiment:
    """The recipe for a row of the paper's ablations: Objects365 alone, COCO and LVIS unseen.

    Args:
      parts: of the model, Swin-T, whose layers the backward pass computes again.
    """
    return pretraining(grounding_dino.swin_t(remat=True, **parts), OBJECTS365)


def pretraining(model: nn.Module, train: str | tuple[tuple[str, float], ...]) -> Experiment:
    """Open-GroundingDino's schedule of mixed pre-training and its 50 names, with zero-shot
    evaluations.

    BERT learns at a tenth of the rate, as the paper has it; theirs stays as it is, which is
    `optimizer.frozen=[("^bert/",True)]`.
    """
    return recipe(model, train, ZERO_SHOT, epochs=15, drop_every=4, max_labels=50, metric="coco/AP")


def recipe(
    model: nn.Module | None,
    train: str | tuple[tuple[str, float], ...],
    val: str | dict[str, str],
    *,
    epochs: float,
    drop_every: int,
    max_labels: int = 80,
    vocabulary: str | None = VOCABULARY,
    optimizer: Optimizer = OPTIMIZER,
    **fields,
) -> Experiment:
    """The recipe for a model and its data.

    Args:
      model: None is that of `init`.
      train: a data set, or several with weights.
      val: one or several by name.
      epochs, drop_every: the rate drops by ten after every so many epochs.
      max_labels: names that an image is asked for.
      vocabulary: a file, folder or Hugging Face id; None is that of `init`.
      fields: of `Experiment`.
    """
    drops = tuple(at / epochs for at in range(drop_every, int(epochs), drop_every))
    return Experiment(
        model=model,
        data=Data(
            train=train,
            val=val,
            batch_size=16,
            buckets=BUCKETS,
            transform=detr_augmentation(),
            prompts=Prompts(vocabulary, max_labels=max_labels),
            workers=8,
        ),
        criterion=CRITERION,
        optimizer=optimizer,
        schedule=Schedule("step", drops=drops),
        epochs=float(epochs),
        **fields,
    )

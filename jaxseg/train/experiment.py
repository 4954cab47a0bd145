"""What a config file returns: one frozen dataclass built of real objects.

    def experiment() -> Experiment:
        return Experiment(model=detr.r50(), data=Data(train="coco:/data/coco/train2017", ...))

Everything in it can be changed on the command line by its dotted name; see `train.overrides`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from flax import linen as nn
from jax.sharding import PartitionSpec

from jaxseg.data.prompts import Prompts
from jaxseg.data.scaling import scaled, scaled_buckets, times
from jaxseg.data.transforms import Transform
from jaxseg.losses.criterion import SetCriterion
from jaxseg.parallel import rules
from jaxseg.parallel.mesh import MeshShape
from jaxseg.parallel.rules import Table
from jaxseg.pretrained import ImageConfig
from jaxseg.train.optim import Ema, Optimizer
from jaxseg.train.schedule import Schedule

Size = tuple[int, int]


@dataclass(frozen=True)
class Data:
    """Where images come from and how they become batches.

    Attributes:
      train: a name for `jaxseg.data.open_dataset`, or several with their weights, of which the
        images of a step are mixed (`jaxseg.data.mixture`).
      val: a name, or several by what their metrics shall be called: {"seen": ..., "new": ...} has
        "seen/AP" and "new/AP". Without it nothing is evaluated.
      epoch_images: images of an epoch of a mixture; None: as many as all its data sets have.
      prompts: how images are asked for, for models that read captions, and for no others.
      numbering: of the labels: "contiguous", or "raw" category ids.
      batch_size: images of a step over all devices and processes.
      buckets: canvases (h, w), each compiled once.
      transform: augmentation.
      image: mean and deviation, and the size for evaluation and prediction.
      scale: of all sizes in `transform`, `buckets` and `image`: 0.5 computes on a quarter of the
        pixels.
      max_targets: slots for the objects of an image; more are left out.
      masks: whether targets have masks, as models that draw them need; each slot then holds a
        canvas.
      workers: processes that load images; 0 loads in the training process.
      eval_batch_size: None is one image a device.
      eval_limit: only evaluate the first so many images.
      on_error: what an unreadable image of `train` does: "raise" ends the run, "skip" takes
        another image for it, with a warning each time. The evaluation always ends.
    """

    train: str | tuple[tuple[str, float], ...]
    transform: Transform
    buckets: tuple[Size, ...]
    val: str | Mapping[str, str] | None = None
    epoch_images: int | None = None
    prompts: Prompts | None = None
    numbering: Literal["contiguous", "raw"] = "contiguous"
    batch_size: int = 16
    image: ImageConfig = field(default_factory=ImageConfig)
    scale: float = 1.0
    max_targets: int = 100
    masks: bool = False
    workers: int = 0
    eval_batch_size: int | None = None
    eval_limit: int | None = None
    on_error: Literal["raise", "skip"] = "raise"

    @property
    def parts(self) -> tuple[tuple[str, float], ...]:
        """What is trained on, with weights."""
        return ((self.train, 1.0),) if isinstance(self.train, str) else self.train

    @property
    def evaluations(self) -> dict[str, str]:
        """What is evaluated on, by name; the only one has the name ""."""
        if self.val is None:
            return {}
        return {"": self.val} if isinstance(self.val, str) else dict(self.val)

    def scaled(self, stride: int) -> "Data":
        """The same with `scale` applied; canvases are rounded up to multiples of the stride."""
        if self.scale == 1:
            return self
        image = replace(
            self.image,
            short_side=times(self.image.short_side, self.scale),
            long_side=times(self.image.long_side, self.scale),
        )
        return replace(
            self,
            transform=scaled(self.transform, self.scale),
            buckets=scaled_buckets(self.buckets, self.scale, stride),
            image=image,
        )


@dataclass(frozen=True)
class Experiment:
    """One run.

    Attributes:
      model: unbound; `num_classes=0` means as many as the data set has. None is the model that
        `init` holds.
      dtype: of the computation, for whatever model; None leaves its own. Parameters stay float32.
      steps: of the run, instead of `epochs`.
      accumulate: a batch is computed in so many parts, one after the other, to save memory.
      seed: of parameters, dropout, the order of images and augmentation.
      init: weights to start from: a folder, a file or a Hugging Face id.
      load: path pattern → whether `init`'s parameter is taken; the default is yes.
      backbone: a file of ImageNet weights for the backbone alone; "random" trains without.
      text: weights of BERT for the text encoder alone: a file, a folder or a Hugging Face id;
        "random" trains without.
      sharding: path pattern → `PartitionSpec` over `mesh`.
      matmul_precision: "default", "high" or "highest" for float32 products on accelerators;
        None is the platform's choice.
      evaluate_every, checkpoint_every: steps; None is once an epoch. The end always counts.
      keep_every: checkpoints at multiples of this step are kept for good.
      log_every: steps between two lines of metrics.
      metric: of the evaluation; the best checkpoint has the highest. Of several evaluations it is
        "NAME/METRIC".
    """

    model: nn.Module | None
    data: Data
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    criterion: SetCriterion = field(default_factory=SetCriterion)
    ema: Ema = field(default_factory=Ema)
    mesh: MeshShape = field(default_factory=MeshShape)
    sharding: Table[PartitionSpec] = rules.DETR
    epochs: float = 300.0
    steps: int | None = None
    accumulate: int = 1
    seed: int = 42
    dtype: Any = None
    init: str | None = None
    load: Table[bool] = ()
    backbone: str | None = None
    text: str | None = None
    matmul_precision: str | None = None
    evaluate_every: int | None = None
    checkpoint_every: int | None = None
    keep_every: int | None = None
    log_every: int = 50
    metric: str = "AP"

    def num_steps(self, steps_per_epoch: int) -> int:
        """Of the whole run, at least 1."""
        steps = round(self.epochs * steps_per_epoch) if self.steps is None else self.steps
        return max(1, steps)

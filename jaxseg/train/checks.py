"""What settings and data must fulfil before anything is written."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from jaxseg.data.dataset import Dataset
from jaxseg.errors import UserError
from jaxseg.eval.coco_ap import METRICS
from jaxseg.eval.panoptic import METRICS as PANOPTIC_METRICS
from jaxseg.losses.criterion import FocalClasses, SetCriterion, SoftmaxClasses
from jaxseg.params import abstract_output
from jaxseg.predict.masks import predicts_masks
from jaxseg.train.experiment import Data, Experiment

AT_LEAST_1 = (
    "accumulate", "evaluate_every", "checkpoint_every", "keep_every", "log_every", "steps",
    "data.batch_size", "data.max_targets", "data.eval_batch_size", "data.eval_limit",
    "data.image.short_side", "data.image.long_side",
)  # fmt: skip
# What a model may have in its training output, the setting of its losses, and its name.
LOSSES = {
    "first_stage": ("criterion.first_stage", "the encoder's own predictions"),
    "denoised": ("criterion.denoising", "noised objects"),
}


def check_settings(experiment: Experiment) -> None:
    """What can be said without the data.

    Raises:
      UserError: a number out of its range, or settings that exclude each other.
    """
    for name in AT_LEAST_1:
        _at_least(experiment, name, 1)
    _at_least(experiment, "data.workers", 0)
    for name in ("epochs", "data.scale"):
        if _value(experiment, name) <= 0:
            raise UserError(f"{name} must be above 0; got {_value(experiment, name)}")
    _one_of(experiment, "matmul_precision", ("default", "high", "highest"))
    _one_of(experiment, "data.on_error", ("raise", "skip"))
    if experiment.dtype is not None and not jnp.issubdtype(experiment.dtype, jnp.floating):
        raise UserError(f"dtype must be float32, bfloat16 or float16; got {experiment.dtype!r}")
    if experiment.init is not None and experiment.backbone is not None:
        raise UserError("init holds a backbone already: give init or backbone, not both")


def check_metric(metric: str, val_set: Dataset, masks: bool) -> None:
    """Raise `UserError` if no evaluation on a data set, of masks or not, has the metric."""
    known, kinds = METRICS, ["AP"]
    if masks and hasattr(val_set, "panoptic"):
        known, kinds = METRICS + PANOPTIC_METRICS, ["AP", "PQ"]
    elif masks:
        known, kinds = METRICS + tuple(f"mask_{name}" for name in METRICS), ["AP", "mask_AP"]
    kind, slash, name = metric.partition("/")
    # Classes of one name are told apart by their ids.
    named = slash and kind in kinds and name.partition(" (id ")[0] in val_set.classes.names
    if metric not in known and not named:
        raise UserError(
            f"metric is one of {', '.join(known)}, or {' or '.join(f'{k}/CLASS' for k in kinds)} "
            f"with the name of a class; got {metric!r}: set metric"
        )


def check_masks(data: Data, model: nn.Module) -> None:
    """Raise `UserError` if the model needs masks that are not loaded, or has no use for them."""
    if predicts_masks(model) and not data.masks:
        raise UserError(
            "the model draws masks and is trained with them: set data.masks=true, and give data "
            "with masks"
        )
    if data.masks and not predicts_masks(model):
        raise UserError(
            f"data.masks is true and the model ({type(model).__name__}) draws no masks: set "
            "data.masks=false, or take a model with a mask head, such as detr.r50_instance"
        )


def check_criterion(criterion: SetCriterion, model: nn.Module, params: Mapping) -> None:
    """Raise `UserError` if the losses are not those of what the model predicts.

    Args:
      params: shapes of the model's parameters.
    """
    output, kind = abstract_output(model, params), type(model).__name__
    outputs, classes = output.logits.shape[-1], criterion.classes
    if classes.no_object(outputs) != model.num_classes:
        likely = FocalClasses if outputs == model.num_classes else SoftmaxClasses
        raise UserError(
            f"the model ({kind}) has {outputs} outputs for {model.num_classes} classes, which "
            f"{type(classes).__name__} does not score: criterion.classes must be "
            f"{likely.__name__}(){_recipes(model)}"
        )
    scored = {"first_stage": criterion.first_stage is not None, "denoised": criterion.denoising}
    for extra, (setting, what) in LOSSES.items():
        if extra in output.extras and not scored[extra]:
            raise UserError(
                f"the model ({kind}) trains with {what}, for which the criterion has no losses: "
                f"set {setting}{_recipes(model)}"
            )
    if scored["first_stage"] and "first_stage" not in output.extras:
        raise UserError(
            f"the criterion scores {LOSSES['first_stage'][1]}, which the model ({kind}) does not "
            "make: set criterion.first_stage=none"
        )


def _recipes(model: nn.Module) -> str:
    package, _, family = type(model).__module__.rpartition(".")
    return f", as the configs {family}/... do" if package.startswith("jaxseg.models") else ""


def check_classes(train_set: Dataset, val_set: Dataset | None) -> None:
    """Raise `UserError` if the two have other categories."""
    if val_set is None or val_set.classes == train_set.classes:
        return
    unknown = [name for name in val_set.classes.names if name not in train_set.classes.names]
    raise UserError(
        f"data.train and data.val have other categories: {len(train_set.classes)} against "
        f"{len(val_set.classes)}, of which only data.val has {', '.join(unknown) or 'none'}. "
        "Give both files the same categories list"
    )


def check_buckets(buckets, model: nn.Module) -> None:
    """Raise `UserError` if the model's stride does not divide a canvas."""
    wrong = [bucket for bucket in buckets if any(side % model.stride for side in bucket)]
    if wrong:
        raise UserError(
            f"data.buckets must be multiples of the model's stride {model.stride}; got {wrong[0]}"
        )


def _value(experiment: Experiment, name: str) -> Any:
    value = experiment
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _at_least(experiment: Experiment, name: str, least: int) -> None:
    value = _value(experiment, name)
    if value is not None and value < least:
        raise UserError(f"{name} must be {least} or more; got {value}")


def _one_of(experiment: Experiment, name: str, allowed: tuple[str, ...]) -> None:
    value = _value(experiment, name)
    if value is not None and value not in allowed:
        raise UserError(f"{name} is one of {', '.join(allowed)}; got {value!r}")

"""What settings and data must fulfil before anything is written."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from jaxseg.data.dataset import Dataset
from jaxseg.errors import UserError
from jaxseg.losses.criterion import FocalClasses, SetCriterion, SoftmaxClasses, TokenClasses
from jaxseg.params import abstract_output, reads_captions
from jaxseg.predict.masks import predicts_masks
from jaxseg.train.check_sets import check_sets
from jaxseg.train.configs import config_names
from jaxseg.train.describe import describe
from jaxseg.train.experiment import Data, Experiment

AT_LEAST_1 = (
    "accumulate", "evaluate_every", "checkpoint_every", "keep_every", "log_every", "steps",
    "data.batch_size", "data.max_targets", "data.eval_batch_size", "data.eval_limit",
    "data.epoch_images", "data.image.short_side", "data.image.long_side",
)  # fmt: skip
# Where a family's configs lie, if not in the folder of its name.
FOLDERS = {"dab_deformable_detr": "dab_detr"}
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
    if experiment.init is not None and experiment.text is not None:
        raise UserError("init holds a text encoder already: give init or text, not both")
    check_sets(experiment.data)
    _check_prompts(experiment)
    _check_sizes("data.transform", experiment.data.transform)
    _check_size("data.buckets", experiment.data.buckets)
    _check_at_once(experiment.model)


def _check_prompts(experiment: Experiment) -> None:
    """Raise `UserError` if captions are made of a length or a number of names that cannot be."""
    if experiment.data.prompts is None:
        return
    _at_least(experiment, "data.prompts.length", 4)
    _at_least(experiment, "data.prompts.max_labels", 1)
    _one_of(experiment, "data.prompts.negatives", ("fill", "vary"))
    _one_of(experiment, "data.prompts.grounding", ("phrases", "sentence"))


def _check_sizes(name: str, transform: Any) -> None:
    """Raise `UserError` if a length in a transform or its parts is no number of pixels."""
    if isinstance(transform, tuple):
        for i, part in enumerate(transform):
            _check_sizes(f"{name}[{i}]", part)
    if not dataclasses.is_dataclass(transform):
        return
    for field in dataclasses.fields(transform):
        check = _check_size if "pixels" in field.metadata else _check_sizes
        check(f"{name}.{field.name}", getattr(transform, field.name))


def _check_size(name: str, value: Any) -> None:
    """Raise `UserError` if a length, or one of several, is no number of pixels; None is none."""
    if isinstance(value, tuple | list):
        if not value:
            raise UserError(f"{name} must have one size or more; got {value}")
        for item in value:
            _check_size(name, item)
    elif value is not None and value < 1:
        raise UserError(f"{name} must be 1 or more; got {value}")


def _check_at_once(model: nn.Module | None) -> None:
    """Raise `UserError` if a mask head shall draw the queries in parts that do not add up."""
    at_once = getattr(getattr(model, "mask_head", None), "queries_at_once", None)
    if at_once is not None and (at_once < 1 or model.num_queries % at_once):
        raise UserError(
            f"model.mask_head.queries_at_once must divide the model's {model.num_queries} queries; "
            f"got {at_once}: take a divisor, or none for all at once"
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
    if reads_captions(model) != isinstance(classes, TokenClasses):
        likely = "TokenClasses" if reads_captions(model) else "FocalClasses or SoftmaxClasses"
        raise UserError(
            f"the classes of the model ({kind}) are not what {type(classes).__name__} scores: "
            f"criterion.classes must be {likely}{_recipes(model)}"
        )
    if not reads_captions(model) and classes.no_object(outputs) != model.num_classes:
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
    """A hint at the configs that train such models, if there are any."""
    try:
        family = describe(model)[0].split(".")[0]
    except UserError:
        return ""
    folder = FOLDERS.get(family, family)
    there = any(name.startswith(f"{folder}/") for name in config_names())
    return f", as the configs {folder}/... do" if there else ""


def check_classes(train_set: Dataset, val_set: Dataset | None) -> None:
    """Raise `UserError` if the two have other categories."""
    if val_set is None or val_set.classes == train_set.classes:
        return
    train, val = _categories(train_set), _categories(val_set)
    alone = {
        name: [text for text in ours if text not in theirs]
        for name, ours, theirs in (("data.train", train, val), ("data.val", val, train))
    }
    differences = (f"only {name} has {_some(texts)}" for name, texts in alone.items() if texts)
    raise UserError(
        f"data.train and data.val have other categories ({len(train)} and {len(val)}): "
        f"{'; '.join(differences)}. Give both files the same categories list"
    )


def _categories(dataset: Dataset) -> list[str]:
    return [
        f"{category['name']} (id {category['id']}{'' if category.get('isthing', 1) else ', stuff'})"
        for category in dataset.classes.to_categories()
    ]


def _some(texts: list[str], most: int = 5) -> str:
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more


def check_buckets(buckets, model: nn.Module) -> None:
    """Raise `UserError` if the model's stride does not divide a canvas that must be exact."""
    if getattr(model, "canvas", "exact") == "padded":
        return
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

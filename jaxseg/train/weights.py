"""The model of a run and the weights it starts from."""

import dataclasses
import logging
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax import linen as nn

from jaxseg.backbones.swin import Swin
from jaxseg.checkpoints import from_pretrained, load_backbone, load_text
from jaxseg.data.classes import Classes
from jaxseg.errors import UserError
from jaxseg.native import build_model
from jaxseg.necks.simple_feature_pyramid import PyramidBackbone
from jaxseg.parallel.rules import lookup
from jaxseg.params import abstract_params, flatten, reads_captions
from jaxseg.train.experiment import Experiment
from jaxseg.train.overrides import with_dtype

logger = logging.getLogger(__name__)

RANDOM = "random"
LARGE = 12  # layers of a BERT that is not trained from random weights


Builder = tuple[str, Mapping[str, Any]]


class Start(NamedTuple):
    """What a run begins with.

    Attributes:
      model: for the data set's classes.
      initial: flat parameters to start from, if any.
      init: what the model was built of, if `init` brought it.
    """

    model: nn.Module
    initial: dict[str, np.ndarray] | None = None
    init: Builder | None = None


def resolve_model(
    experiment: Experiment, classes: Classes, say: Callable[[str], None] = logger.warning
) -> Start:
    """The model for a data set's classes, and the parameters it starts from.

    Args:
      say: is told what had to be assumed of the weights, and what of them starts afresh.

    Raises:
      UserError: no model, another number of classes, or weights that do not fit.
    """
    choose = _afresh if experiment.init is None else _from_init
    return _computing(experiment, choose(experiment, classes, say))


def resume_model(experiment: Experiment, classes: Classes, init: Builder | None) -> Start:
    """The model of a run that goes on, whose first weights need not be there any more.

    Args:
      init: `Start.init` of the run; None where it is not on record.

    Raises:
      UserError: as `resolve_model`.
    """
    if experiment.model is not None:
        return _computing(experiment, Start(_with_classes(experiment, classes)))
    if init is None:
        return resolve_model(experiment, classes, lambda note: None)._replace(initial=None)
    name, kwargs = init
    count = {} if experiment.data.prompts else {"num_classes": len(classes)}
    model = build_model(name, {**kwargs, **count}, "the run's experiment.json")
    return _computing(experiment, Start(model, init=init))


def _computing(experiment: Experiment, start: Start) -> Start:
    if experiment.dtype is None:
        return start
    return start._replace(model=with_dtype(start.model, "dtype", experiment.dtype))


def _afresh(experiment: Experiment, classes: Classes, say: Callable[[str], None]) -> Start:
    if experiment.model is None:
        raise UserError(
            "this config trains the model that `init` holds: add init=FOLDER or a Hugging Face "
            "id, for example init=facebook/detr-resnet-50"
        )
    if experiment.load:
        raise UserError(
            "this config takes parts of other weights (load): add init=FOLDER, or load=() to "
            "train all of the model from the beginning"
        )
    model = _with_classes(experiment, classes)
    if experiment.backbone is None:
        _check_random_backbone(model)
    _check_text(experiment, model)
    parts = {}
    if experiment.backbone not in (None, RANDOM):
        parts["backbone"] = load_backbone(experiment.backbone, model, say)
    if experiment.text not in (None, RANDOM):
        parts["bert"] = load_text(experiment.text, model)
    return Start(model, _on_host(parts) if parts else None)


def _from_init(experiment: Experiment, classes: Classes, say: Callable[[str], None]) -> Start:
    told = experiment.data.prompts is not None  # the classes are no matter of the weights
    if experiment.model is None:
        names = None if told else classes
        found = from_pretrained(experiment.init, classes=names, say=say, canvas="padded")
        initial = _taken(experiment, found.model, found.params)
        return Start(found.model, initial, (found.name, found.kwargs))
    model = _with_classes(experiment, classes)
    labels = None if told else classes.padded(model.num_classes)
    found = from_pretrained(experiment.init, classes=labels, say=say)
    _check_fresh(experiment, model, found.fresh)
    return Start(model, _taken(experiment, model, found.params))


def _check_fresh(experiment: Experiment, model: nn.Module, fresh: Collection[str]) -> None:
    """Refuse to keep a class head constant that starts from random weights."""
    frozen = lookup(experiment.optimizer.frozen, flatten(abstract_params(model)), default=False)
    if stuck := sorted(path for path in fresh if frozen.get(path)):
        raise UserError(
            f"{experiment.init} tells other classes apart than the data set, so {stuck[0]} would "
            "start from random weights, and optimizer.frozen keeps it there: train a detector on "
            "these classes first, and give it as init"
        )


def _taken(experiment: Experiment, model: nn.Module, params: Mapping[str, Any]):
    """What the table `load` takes of the parameters, each checked against the model."""
    shapes, values = flatten(abstract_params(model)), _on_host(params)
    table = lookup(experiment.load, shapes, default=True, what="load")
    paths = [path for path in shapes if table[path]]
    wrong = [p for p in paths if p not in values or values[p].shape != shapes[p].shape]
    if wrong:
        raise UserError(
            f"{experiment.init} does not fit the config's model: {len(wrong)} parameters, such "
            f"as {wrong[0]}, are missing there or have another shape. Use a config of the same "
            'model, or add load=[("PATTERN", False)] for parts that shall start afresh'
        )
    return {path: values[path] for path in paths}


def _on_host(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {path: np.asarray(value) for path, value in flatten(params).items()}


def _with_classes(experiment: Experiment, classes: Classes) -> nn.Module:
    model, wanted = experiment.model, len(classes)
    if reads_captions(model):
        return model
    if model.num_classes == 0:
        return dataclasses.replace(model, num_classes=wanted)
    # Raw category ids may end before the model's labels do.
    enough = experiment.data.numbering == "raw" and model.num_classes > wanted
    if model.num_classes != wanted and not enough:
        some = ", ".join(classes.names[:6]) + (", …" if wanted > 6 else "")
        raise UserError(
            f"the model has {model.num_classes} classes and the data set {wanted} ({some}): set "
            f"model.num_classes={wanted}, or 0 to follow the data set"
        )
    return model


def _check_text(experiment: Experiment, model: nn.Module) -> None:
    if not reads_captions(model):
        if experiment.text is not None:
            raise UserError(
                f"text holds weights of a text encoder, and a {type(model).__name__} has none: "
                "leave it out"
            )
    elif experiment.text is None and model.bert.num_layers >= LARGE:
        raise UserError(
            "the text encoder is a BERT of full size, which learns no language from a detector's "
            "data: give its weights with text=google-bert/bert-base-uncased (or a folder or file "
            "of them), a whole detector with init=..., or text=random to train without all the same"
        )


def _check_random_backbone(model: nn.Module) -> None:
    if isinstance(model.backbone, Swin | PyramidBackbone):
        raise UserError(
            "the backbone is a transformer, which learns little from random weights: give those "
            "of its pre-training with backbone=FILE (Microsoft's Swin or MAE's ViT, for example), "
            "a whole detector with init=..., or backbone=random to train without all the same"
        )
    if any(path.endswith("/var") for path in flatten(abstract_params(model))):
        raise UserError(
            "the backbone has frozen batch normalisation, which cannot be trained from random "
            "weights: give ImageNet's with backbone=FILE (torchvision's resnet50, for example), "
            "a whole detector with init=..., or backbone=random to train without all the same"
        )

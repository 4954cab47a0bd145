"""What data sets must fulfil, for what is trained and evaluated on them."""

from collections.abc import Mapping

from flax import linen as nn

from jaxseg.data.dataset import Dataset
from jaxseg.errors import UserError
from jaxseg.eval.coco_ap import METRICS
from jaxseg.eval.panoptic import METRICS as PANOPTIC_METRICS
from jaxseg.eval.referring import METRICS as REFERRING_METRICS
from jaxseg.eval.told import is_referring
from jaxseg.params import reads_captions
from jaxseg.train.experiment import Data


def check_sets(data: Data) -> None:
    """Raise `UserError` if the data sets, their names or their weights make no sense."""
    names = list(data.evaluations)
    if not data.parts or data.val == {}:
        raise UserError("data.train and data.val must name one data set or more, or data.val=none")
    if isinstance(data.train, str) and data.epoch_images is not None:
        raise UserError(
            "data.epoch_images is of a mixture, and data.train is one data set, whose epoch is "
            "all its images: set data.epoch_images=none"
        )
    if isinstance(data.val, Mapping) and any(not name or "/" in name for name in names):
        raise UserError(f'names of evaluations must be words without "/"; got {", ".join(names)}')


def check_captions(data: Data, model: nn.Module) -> None:
    """Raise `UserError` if the model reads captions and none are made, or the other way round."""
    kind, reads = type(model).__name__, reads_captions(model)
    if reads and data.prompts is None:
        raise UserError(
            f"the model ({kind}) is told what to look for: set data.prompts to "
            "Prompts(vocabulary=FILE) in the config"
        )
    if data.prompts is not None and not reads:
        raise UserError(
            f"data.prompts makes captions, which the model ({kind}) does not read: set "
            "data.prompts=none"
        )


def check_named_by_classes(dataset: Dataset, setting: str) -> None:
    """Raise `UserError` if the images do not have one list of classes."""
    if dataset.names_by_image:
        raise UserError(
            f"{setting} has phrases, or data sets of different classes: that is for models which "
            "are told what to look for (data.prompts); others need one list of classes"
        )


def check_metrics(metric: str, val_sets: Mapping[str, Dataset], masks: bool) -> None:
    """Raise `UserError` if no evaluation on one of some data sets has the metric."""
    if "" in val_sets:
        return check_metric(metric, val_sets[""], masks)
    name, _, own = metric.partition("/")
    if name not in val_sets:
        allowed = " or ".join(f"{name}/AP" for name in val_sets)
        raise UserError(
            f"metric must say of which evaluation it is, as {allowed}; got {metric!r}: set metric"
        )
    return check_metric(own, val_sets[name], masks)


def check_metric(metric: str, val_set: Dataset, masks: bool) -> None:
    """Raise `UserError` if no evaluation on a data set, of masks or not, has the metric."""
    if is_referring(val_set):
        if metric not in REFERRING_METRICS:
            raise UserError(
                f"of referring expressions metric is one of {', '.join(REFERRING_METRICS)}; got "
                f"{metric!r}: set metric"
            )
        return
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

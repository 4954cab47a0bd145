"""The data sets of a run, and the loader of its steps."""

from collections.abc import Mapping
from typing import Any

from jax.sharding import Mesh

from jaxseg.data.classes import Classes
from jaxseg.data.dataset import Dataset, open_dataset
from jaxseg.data.loader import Loader
from jaxseg.data.mixture import Mixture
from jaxseg.errors import UserError
from jaxseg.eval.told import check_judged, is_referring
from jaxseg.parallel.mesh import loader_shard
from jaxseg.train.check_sets import check_metrics, check_named_by_classes
from jaxseg.train.checks import check_classes
from jaxseg.train.experiment import Data, Experiment


def open_sets(experiment: Experiment) -> tuple[Dataset, dict[str, Dataset]]:
    """What is trained on, and what is evaluated on by name."""
    data = experiment.data
    options = {"numbering": data.numbering, "masks": data.masks}
    parts = [(_opened("data.train", spec, options), weight) for spec, weight in data.parts]
    train_set = parts[0][0]
    if not isinstance(data.train, str):
        train_set = Mixture(parts, data.epoch_images)
    # Opened with masks, which must be there; evaluation has them from the ground truth.
    val_sets = {
        name: _opened("data.val", spec, options).without_masks()
        for name, spec in data.evaluations.items()
    }
    if data.prompts is None:
        check_named_by_classes(train_set, "data.train")
        for val_set in val_sets.values():
            check_named_by_classes(val_set, "data.val")
            check_classes(train_set, val_set)
    for name, val_set in val_sets.items():
        _check_judged(val_set, data.evaluations[name])
    if val_sets:
        check_metrics(experiment.metric, val_sets, data.masks)
    return train_set, val_sets


def run_classes(experiment: Experiment, train_set: Dataset, val_sets: Mapping) -> Classes:
    """What the run is about."""
    if experiment.data.prompts is None:
        return train_set.classes
    asked = [val_set.classes for val_set in val_sets.values() if not is_referring(val_set)]
    if asked:
        return asked[0]
    # Phrases are as many as there are captions, and no classes.
    own = train_set.names_by_image and not isinstance(train_set, Mixture)
    return Classes((), ()) if own else train_set.classes


def _check_judged(val_set: Dataset, spec: str) -> None:
    try:
        check_judged(val_set)
    except UserError as error:
        raise UserError(f"{error} (data.val={spec})") from None


def make_loader(train_set: Dataset, data: Data, seed: int, mesh: Mesh) -> Loader:
    """The batches of this process's devices."""
    index, processes = loader_shard(mesh)
    return Loader(
        train_set,
        batch_size=data.batch_size,
        buckets=data.buckets,
        transform=data.transform,
        max_targets=data.max_targets,
        seed=seed,
        process_index=index,
        process_count=processes,
        workers=data.workers,
        masks=data.masks,
        prompts=data.prompts,
        on_error=data.on_error,
    )


def _opened(setting: str, spec: str, options: dict[str, Any]) -> Dataset:
    try:
        return open_dataset(spec, **options)
    except UserError as error:
        raise UserError(
            f"{error} ({setting}={spec}: set {setting} to your data set, if this is not it)"
        ) from None

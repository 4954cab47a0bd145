"""From an experiment to everything that a run needs: derived values are computed here."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import Mesh

from jaxseg.data.classes import Classes
from jaxseg.data.dataset import Dataset
from jaxseg.data.loader import Loader
from jaxseg.eval.build import make_evaluator
from jaxseg.eval.runner import Evaluator
from jaxseg.eval.told import make_told_evaluator
from jaxseg.parallel.mesh import batch_shards
from jaxseg.parallel.shard import check_batch_size, param_shardings, place
from jaxseg.params import abstract_inputs, abstract_params, count, flatten, unflatten
from jaxseg.text.vocabulary import open_vocabulary
from jaxseg.train import state as states
from jaxseg.train.checks import check_buckets, check_criterion, check_masks, check_settings
from jaxseg.train.experiment import Experiment
from jaxseg.train.loop import Evaluate
from jaxseg.train.sets import make_loader, open_sets, run_classes
from jaxseg.train.state import TrainState
from jaxseg.train.step import Step, make_step
from jaxseg.train.vocabulary import prompts_for
from jaxseg.train.weights import Builder, resolve_model, resume_model
from jaxseg.train.workdir import Record


@dataclasses.dataclass(frozen=True)
class Session:
    """An experiment put together.

    Attributes:
      experiment: with derived values filled in: its model has the data set's classes, its sizes
        are scaled, and its vocabulary is a file.
      given: with that model, and all else as it was given.
      classes: names and categories of the model's labels; of a model that reads captions, what
        it is evaluated on or, without that, what it is trained on.
      val_sets: what is evaluated on, by name; see `Data.evaluations`.
      trainable: paths that are trained.
      num_steps: of the whole run.
      initial: flat parameters that the run starts from, if any.
      init: `Start.init`.
      notes: what there is to say about them; no matter to a run that goes on.
    """

    experiment: Experiment
    given: Experiment
    mesh: Mesh
    train_set: Dataset
    val_sets: Mapping[str, Dataset]
    classes: Classes
    loader: Loader
    trainable: tuple[str, ...]
    num_steps: int
    step: Step
    make_state: Callable[[dict[str, Any]], TrainState]
    learning_rate: Callable[[int], float]
    initial: dict[str, Any] | None = None
    init: Builder | None = None
    notes: tuple[str, ...] = ()

    @property
    def model(self) -> nn.Module:
        """The model, with the data set's number of classes."""
        return self.experiment.model

    def init_params(self) -> dict[str, Any]:
        """Parameters drawn from the experiment's seed (to be traced)."""
        inputs = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), abstract_inputs(self.model))
        return self.model.init(jax.random.key(self.experiment.seed), *inputs)["params"]

    def create_state(self) -> TrainState:
        """The state before the first step, with the weights that the experiment starts from."""
        arguments = (self.init_params, self.make_state, self.experiment.sharding, self.mesh)
        return states.create_state(*arguments, load=self._load)

    def abstract_state(self) -> TrainState:
        """What a checkpoint is restored into."""
        arguments = (self.init_params, self.make_state, self.experiment.sharding, self.mesh)
        return states.abstract_state(*arguments)

    @property
    def val_set(self) -> Dataset | None:
        """The first of what is evaluated on."""
        return next(iter(self.val_sets.values()), None)

    def evaluator(self) -> Evaluate | None:
        """A function from parameters to metrics on the validation sets, if there are any.

        Of several sets the metrics are "NAME/METRIC", the one that "best" means first.
        """
        if not self.val_sets:
            return None
        evaluators = {name: self._evaluator(val_set) for name, val_set in self.val_sets.items()}
        own = self.experiment.metric.partition("/")[2]

        def evaluate(params: Any, step: int, poll: Callable[[], None]) -> dict[str, float]:
            found = {}
            for name, whole in evaluators.items():
                batches = partial(_polled, whole.batches, poll)
                values = dataclasses.replace(whole, batches=batches)(params, step)
                found |= {f"{name}/{key}" if name else key: x for key, x in values.items()}
            first = [f"{name}/{own}" for name in evaluators if name and f"{name}/{own}" in found]
            return {name: found[name] for name in (*first, *found)}

        return evaluate

    def _evaluator(self, val_set: Dataset) -> Evaluator:
        data = self.experiment.data
        options: dict[str, Any] = {
            "image": data.image,
            "batch_size": data.eval_batch_size or batch_shards(self.mesh),
            "mesh": self.mesh,
            "limit": data.eval_limit,
            "workers": data.workers,
        }
        if data.prompts is None:
            ids = self.classes.category_ids
            return make_evaluator(self.model, val_set, category_ids=ids, **options)
        return make_told_evaluator(
            self.model,
            val_set,
            open_vocabulary(data.prompts.vocabulary),
            length=data.prompts.length,
            clean=data.prompts.clean,
            **options,
        )

    def _load(self, params: dict[str, Any]) -> dict[str, Any]:
        if self.initial is None:
            return params
        drawn = flatten(params)
        shardings = param_shardings(self.experiment.sharding, params, self.mesh)
        loaded = {path: place(value, shardings[path]) for path, value in self.initial.items()}
        return unflatten(drawn | loaded)


def _polled(batches: Callable, poll: Callable[[], None]) -> Iterator:
    with contextlib.closing(batches()) as loading:
        for batch in loading:
            poll()
            yield batch


def prepare(experiment: Experiment, record: Record | None = None) -> Session:
    """Open the data, derive what follows from it, and build step, loader and optimizer.

    Args:
      record: of the run that goes on from a checkpoint; no weights are read.

    Raises:
      UserError: data set, model, weights, batch and mesh do not go together.
    """
    check_settings(experiment)
    mesh = experiment.mesh.build()
    _check_batches(experiment, mesh)
    if experiment.model is not None:
        prompts_for(experiment, experiment.model)
    train_set, val_sets = open_sets(experiment)
    classes = run_classes(experiment, train_set, val_sets)
    notes: list[str] = []
    start = (
        resolve_model(experiment, classes, notes.append)
        if record is None
        else resume_model(experiment, classes, record.init)
    )
    model = start.model
    prompts = prompts_for(experiment, model)
    data = dataclasses.replace(experiment.data.scaled(model.stride), prompts=prompts)
    check_masks(data, model)
    given = dataclasses.replace(experiment, model=model)
    experiment = dataclasses.replace(given, data=data)
    loader = make_loader(train_set, data, experiment.seed, mesh)
    check_buckets(loader.buckets, model)
    num_steps = experiment.num_steps(loader.steps_per_epoch)
    schedule = experiment.schedule.build(num_steps)
    shapes = abstract_params(model)
    check_criterion(experiment.criterion, model, shapes)
    paths = list(flatten(shapes))
    trainable = experiment.optimizer.trainable(paths)
    optimizer = experiment.optimizer.build(schedule, paths)
    step = make_step(
        model,
        experiment.criterion,
        optimizer,
        trainable,
        ema=experiment.ema,
        micro_batches=experiment.accumulate,
        mean=data.image.mean,
        std=data.image.std,
        matmul_precision=experiment.matmul_precision,
    )
    return Session(
        experiment=experiment,
        given=given,
        mesh=mesh,
        train_set=train_set,
        val_sets=val_sets,
        classes=classes if data.prompts else classes.padded(model.num_classes),
        loader=loader,
        trainable=trainable,
        num_steps=num_steps,
        step=step,
        make_state=lambda params: states.initial_state(
            params, optimizer, trainable, experiment.ema, experiment.seed
        ),
        learning_rate=lambda step: experiment.optimizer.learning_rate * float(schedule(step)),
        initial=start.initial,
        init=start.init,
        notes=tuple(notes),
    )


def _check_batches(experiment: Experiment, mesh: Mesh) -> None:
    data = experiment.data
    check_batch_size(data.batch_size, mesh, experiment.accumulate, name="data.batch_size")
    if data.eval_batch_size is not None and data.val is not None:
        check_batch_size(data.eval_batch_size, mesh, name="data.eval_batch_size")


def summary(session: Session) -> str:
    """A few lines for the start of a run."""
    experiment, loader = session.experiment, session.loader
    shapes = flatten(abstract_params(session.model))
    trained = count({path: shapes[path] for path in session.trainable})
    buckets = ", ".join(f"{h}×{w}" for h, w in loader.buckets)
    mesh = " × ".join(f"{axis} {size}" for axis, size in session.mesh.shape.items())
    device = session.mesh.devices.flat[0]
    counts = [f"{name} {len(x)} images".strip() for name, x in session.val_sets.items()]
    val = ", ".join(counts) or "none"
    rows = {
        "model": f"{type(session.model).__name__}, {jnp.dtype(session.model.dtype).name}, "
        f"{trained / 1e6:.1f} M parameters trained, "
        f"{(count(shapes) - trained) / 1e6:.1f} M frozen",
        "data": f"{len(session.train_set)} images, {len(session.classes)} classes; "
        f"validation {val}",
        "steps": f"{session.num_steps} of {experiment.data.batch_size} images, "
        f"{loader.steps_per_epoch} an epoch",
        "canvases": buckets,
        "devices": f"{session.mesh.size} × {device.device_kind} ({mesh}), "
        f"{jax.process_count()} process(es)",
    }
    return "\n".join(f"{name:<9}{text}" for name, text in rows.items())

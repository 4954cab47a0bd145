"""One training step: a pure function of state and batch, compiled once for each canvas."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxseg.ops.images import IMAGENET_MEAN, IMAGENET_STD, normalize
from jaxseg.params import RNGS, flatten, unflatten
from jaxseg.structures import Batch
from jaxseg.train.adamw import Update
from jaxseg.train.optim import Ema
from jaxseg.train.state import TrainState, select
from jaxseg.typing import Array, Bool, Float

Step = Callable[[TrainState, Batch], tuple[TrainState, "Report"]]


class Report(NamedTuple):
    """What a step measured.

    Attributes:
      metrics: "loss", the criterion's unweighted terms, "grad_norm" (before clipping).
      finite: whether loss and gradients were; where not, the state did not change.
      finite_gradients: the same for each trainable parameter, in the order of its paths.
    """

    metrics: dict[str, Float[Array, ""]]
    finite: Bool[Array, ""]
    finite_gradients: Bool[Array, " n"]


def make_step(
    model: nn.Module,
    criterion: Callable,
    optimizer: Update,
    trainable: Sequence[str],
    *,
    ema: Ema = Ema(),  # noqa: B008 (frozen)
    micro_batches: int = 1,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    matmul_precision: str | None = None,
) -> Step:
    """The step as a function to be jitted, its first argument donated.

    Args:
      criterion: (output, targets, normalizers) → Losses, with `normalizers(targets)`.
      optimizer: `train.optim.Optimizer`'s, or another through `train.adamw.of_optax`.
      trainable: paths that are trained; the rest is constant.
      micro_batches: the batch is computed in so many parts, one after the other, whose
        gradients add up to the whole batch's, but for what is drawn (dropout, noise) and what
        neighbours share (the layout of denoising groups).
      mean, std: of the images.
      matmul_precision: None is the platform's own choice: accelerators round float32.
    """
    gradients = _gradient_function(model, criterion, mean, std)
    trainable = tuple(trainable)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Report]:
        with jax.default_matmul_precision(matmul_precision):
            params = select(state.params, trainable)
            key = jax.random.fold_in(jax.random.key(state.seed), state.step)
            grads, metrics = _accumulate(
                gradients, params, state.params, batch, criterion, key, micro_batches
            )
        report = _report(grads, metrics)
        params, opt_state = optimizer.apply(grads, state.opt_state, params, report.finite)
        average = state.ema
        if average is not None:
            keep = lambda new, old: jnp.where(report.finite, new, old)  # noqa: E731
            average = jax.tree.map(keep, ema.update(average, params, state.step), average)
        new = state.replace(
            step=state.step + report.finite,
            params=unflatten(flatten(state.params) | params),
            opt_state=opt_state,
            ema=average,
        )
        return new, report

    return step


def _gradient_function(model: nn.Module, criterion: Callable, mean, std):
    def loss(params, constants, batch: Batch, normalizers, key):
        everything = unflatten(flatten(constants) | params)
        captions = () if batch.captions is None else (batch.captions,)
        output = model.apply(
            {"params": everything},
            normalize(batch.images, mean, std),
            *captions,
            targets=batch.targets,
            train=True,
            rngs={name: jax.random.fold_in(key, i) for i, name in enumerate(RNGS)},
        )
        losses = criterion(output, batch.targets, normalizers)
        return losses.total, {"loss": losses.total, **losses.terms}

    return jax.grad(loss, has_aux=True)


def _accumulate(gradients, params, constants, batch: Batch, criterion, key, micro_batches: int):
    normalizers = criterion.normalizers(batch.targets)
    if micro_batches == 1:
        return gradients(params, constants, batch, normalizers, key)

    def part(total, indexed):
        index, micro_batch = indexed
        micro_key = jax.random.fold_in(key, index)
        found = gradients(params, constants, micro_batch, normalizers, micro_key)
        return jax.tree.map(jnp.add, total, found), None

    # Part i takes rows i, i + n, i + 2n, …: neighbours lie on one device, so that none of them
    # has to move to another.
    parts = jax.tree.map(lambda x: x.reshape(-1, micro_batches, *x.shape[1:]).swapaxes(0, 1), batch)
    first = jax.tree.map(lambda x: x[0], parts)
    shapes = jax.eval_shape(gradients, params, constants, first, normalizers, key)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.scan(part, zeros, (jnp.arange(micro_batches), parts))[0]


def _report(grads, metrics) -> Report:
    squares = jnp.stack([jnp.sum(jnp.square(grads[path])) for path in sorted(grads)])
    finite_gradients = jnp.isfinite(squares)
    finite = jnp.isfinite(metrics["loss"]) & finite_gradients.all()
    return Report({**metrics, "grad_norm": jnp.sqrt(squares.sum())}, finite, finite_gradients)

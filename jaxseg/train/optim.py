"""AdamW with decisions per parameter, as torch's optimizers with parameter groups.

The optimizer sees the trainable parameters only, as a flat dict by path: frozen ones have no
moments, no gradient and no part in the clipped norm.
"""

import dataclasses
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import optax

from jaxseg.errors import UserError
from jaxseg.parallel.rules import Table, lookup
from jaxseg.train.adamw import Flat, Update, adamw


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """AdamW (arXiv 1711.05101) and its tables; see `parallel.rules` for their form.

    Attributes:
      learning_rate: of parameters without a rule, times the schedule.
      weight_decay: decoupled, times each parameter's own learning rate, as torch does it.
      clip_norm: of the gradient of all trainable parameters; None does not clip.
      learning_rates: path pattern → factor on the learning rate.
      decays: path pattern → factor on the weight decay.
      frozen: path pattern → whether it is constant. What frozen batch normalisation consists
        of is constant without a rule.
    """

    learning_rate: float = 1e-4
    weight_decay: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    clip_norm: float | None = 0.1
    learning_rates: Table[float] = ()
    decays: Table[float] = ()
    frozen: Table[bool] = ()

    def trainable(self, paths: Iterable[str]) -> tuple[str, ...]:
        """The sorted paths that are trained.

        Raises:
          UserError: a rule matches nothing, or everything is frozen.
        """
        paths = list(paths)
        constant = _batch_statistics(paths)
        frozen = lookup(self.frozen, paths, default=False, what="optimizer.frozen")
        kept = tuple(sorted(path for path in paths if not frozen[path] and path not in constant))
        if not kept:
            raise UserError("optimizer.frozen freezes every parameter: nothing is left to train")
        return kept

    def build(self, schedule: optax.Schedule, paths: Iterable[str]) -> Update:
        """What a step does with flat gradients, given all paths of the model (frozen as well).

        The factor of `schedule` multiplies the learning rate.
        """
        paths = list(paths)
        rates = lookup(self.learning_rates, paths, default=1.0, what="optimizer.learning_rates")
        decays = lookup(self.decays, paths, default=1.0, what="optimizer.decays")

        def of_step(count):
            rate = self.learning_rate * schedule(count)
            return {path: rate * rates[path] for path in paths}

        return adamw(
            of_step,
            {path: self.weight_decay * decays[path] for path in paths},
            beta1=self.beta1,
            beta2=self.beta2,
            epsilon=self.epsilon,
            clip_norm=self.clip_norm,
        )


def _batch_statistics(paths: list[str]) -> set[str]:
    # Gradients stop before frozen batch normalisation, but decay would still shrink it.
    scopes = {path.rpartition("/")[0] for path in paths if path.endswith(("/mean", "/var"))}
    return {path for path in paths if path.rpartition("/")[0] in scopes}


@dataclasses.dataclass(frozen=True)
class Ema:
    """An exponential moving average of the parameters, for evaluation and export.

    Attributes:
      decay: towards the old average at every step; None keeps no average.
      warmup: at step t the decay is at most (1 + t) / (10 + t), so that early steps, when the
        weights are still random, are soon forgotten.
    """

    decay: float | None = None
    warmup: bool = True

    def update(self, average: Flat, params: Flat, step: jax.Array) -> dict[str, jax.Array]:
        """The average after a step; `step` counts from 0."""
        decay = jnp.float32(self.decay)
        if self.warmup:
            decay = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
        # As a correction, so that what does not move is not changed by rounding.
        return {path: old + (1 - decay) * (params[path] - old) for path, old in average.items()}

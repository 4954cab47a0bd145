"""Learning rate over the steps of a run."""

import dataclasses
from typing import Literal

import jax.numpy as jnp
import optax

from jaxseg.errors import UserError


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A factor on the learning rate: warm-up, then steps, a cosine or nothing.

    Attributes:
      kind: "step" multiplies by `factor` at each of `drops`; "cosine" falls from 1 after warm-up
        to `end` at the end of the run, just past the last step; "constant" stays at 1.
      drops: when to drop, as fractions of the run: 400 of 500 epochs is 0.8, whatever the data
        set and the batch.
      factor: of each drop.
      end: what a cosine ends at.
      warmup_steps: the factor climbs linearly, 1/n at the first step and 1 at the n-th.
    """

    kind: Literal["step", "cosine", "constant"] = "step"
    drops: tuple[float, ...] = (0.8,)
    factor: float = 0.1
    end: float = 0.0
    warmup_steps: int = 0

    def build(self, num_steps: int) -> optax.Schedule:
        """The factor of each step 0, 1, … of a run of `num_steps`.

        Raises:
          UserError: an unknown kind, or drops outside (0, 1).
        """
        self._check()
        drops = [round(fraction * num_steps) for fraction in self.drops]
        span = max(num_steps - self.warmup_steps, 1)

        def factor(step):
            step = jnp.asarray(step, jnp.float32)
            warmup = jnp.minimum((step + 1) / max(self.warmup_steps, 1), 1.0)
            if self.kind == "step":
                passed = sum((step >= drop).astype(jnp.float32) for drop in drops)
                return warmup * jnp.float32(self.factor) ** passed
            if self.kind == "cosine":
                progress = jnp.clip((step - self.warmup_steps) / span, 0.0, 1.0)
                cosine = (1 + jnp.cos(jnp.pi * progress)) / 2
                return warmup * (self.end + (1 - self.end) * cosine)
            return warmup

        return factor

    def _check(self) -> None:
        kinds = ("step", "cosine", "constant")
        if self.kind not in kinds:
            raise UserError(f"no schedule {self.kind!r}; there are {', '.join(kinds)}")
        if not all(0 < drop < 1 for drop in self.drops):
            raise UserError(
                f"schedule.drops are fractions of the run between 0 and 1; got {self.drops}: "
                "write 0.8 for a drop at epoch 400 of 500"
            )
        if self.warmup_steps < 0:
            raise UserError(f"schedule.warmup_steps must be 0 or more; got {self.warmup_steps}")

"""AdamW (arXiv 1711.05101) that changes a training state in place.

An optimizer computes little and touches a lot of memory. Written as one expression, new moments
are computed twice, once to be kept and once for the parameters; so the old ones have to outlive
them, and XLA:CPU copies all of them at every step, parameters too. Here the moments come first, and
parameters are made of what became of them.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxseg.ops.compiler import apart, platform
from jaxseg.typing import PyTree

Flat = Mapping[str, jax.Array]


class Update(NamedTuple):
    """How parameters change.

    Attributes:
      init: flat parameters → state.
      apply: (gradients, state, parameters, finite) → (parameters, state); both stay as they were
        where `finite` is false.
    """

    init: Callable[[Flat], PyTree]
    apply: Callable[[Flat, PyTree, Flat, jax.Array], tuple[Flat, PyTree]]


def of_optax(transformation: optax.GradientTransformation) -> Update:
    """Any other optimizer for `train.step.make_step`."""

    def apply(grads, state, params, finite):
        updates, new = transformation.update(grads, state, params)
        new = optax.apply_updates(params, updates), new
        return jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, (params, state))

    return Update(transformation.init, apply)


def adamw(
    rates: Callable[[jax.Array], Mapping[str, jax.Array]],
    decays: Mapping[str, float],
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    clip_norm: float | None = None,
) -> Update:
    """Adam with decoupled weight decay, as torch's.

    Args:
      rates: count of steps taken → learning rate of each parameter.
      decays: weight decay of each parameter, times its own learning rate.
      clip_norm: of the whole gradient; None does not clip.
    """

    def init(params):
        zeros = lambda: {path: jnp.zeros_like(x) for path, x in params.items()}  # noqa: E731
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), zeros(), zeros())

    def moments(grads, mu, nu, factor, finite):
        grads = {path: g * factor for path, g in grads.items()}
        first = {p: beta1 * mu[p] + (1 - beta1) * g for p, g in grads.items()}
        second = {p: beta2 * nu[p] + (1 - beta2) * jnp.square(g) for p, g in grads.items()}
        return _keep(finite, first, mu), _keep(finite, second, nu)

    def step(params, mu, nu, scale, rates, finite):
        def one(path, old):
            ahead = mu[path] * scale[0] / (jnp.sqrt(nu[path] * scale[1]) + epsilon)
            return old - rates[path] * (ahead + decays[path] * old)

        return _keep(finite, {path: one(path, old) for path, old in params.items()}, params)

    def apply(grads, state, params, finite):
        together = apart if platform() == "cpu" else lambda compute, *args: compute(*args)
        factor = jnp.ones(()) if clip_norm is None else clip_factor(grads, clip_norm)
        mu, nu = together(moments, grads, state.mu, state.nu, factor, finite)
        count = state.count + finite
        taken = jnp.maximum(count, 1).astype(jnp.float32)
        scale = 1 / (1 - beta1**taken), 1 / (1 - beta2**taken)
        params = together(step, params, mu, nu, scale, rates(state.count), finite)
        return params, optax.ScaleByAdamState(count, mu, nu)

    return Update(init, apply)


def clip_factor(grads: Flat, max_norm: float) -> jax.Array:
    """torch's clipping: min(1, max_norm / (norm + 1e-6)); optax's has no epsilon."""
    return jnp.minimum(1.0, max_norm / (optax.tree.norm(grads) + 1e-6))


def _keep(finite, new: Flat, old: Flat) -> dict[str, jax.Array]:
    # `jnp.where` would be a call of its own within a call, and not be fused.
    select = lambda new, old: lax.select(lax.broadcast(finite, old.shape), new, old)  # noqa: E731
    return {path: select(new[path], old[path]) for path in new}

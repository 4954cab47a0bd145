"""What a form of an operation has to know of the compiler, or to tell it."""

from collections.abc import Callable

import jax
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata

# A context that JAX's caches of traced functions know of.
_targets = jax.make_user_context(())


def targeting(platforms: tuple[str, ...]):
    """A context: what is traced in it is exported for platforms ("cpu", "cuda", "rocm", "tpu"; or
    "onnx"), whatever this machine's is."""
    return _targets(tuple(platforms))


def is_exported() -> bool:
    """Whether the program that is being traced is for devices of which the platform is all that
    is known."""
    return bool(_targets.value)


def by_platform(compute: Callable, *arguments):
    """`compute(*arguments)`, traced for each platform of an exported program; `platform()` tells
    which."""
    if len(_targets.value) < 2:
        return compute(*arguments)

    def branch(name):
        def traced(*arguments):
            with targeting((name,)):
                return compute(*arguments)

        return traced

    return lax.platform_dependent(*arguments, **{name: branch(name) for name in _targets.value})


def platform() -> str:
    """Of the program that is being traced: that it is exported for ("several", if it is for more
    than one), else that of the ambient mesh's devices, else that of the default device."""
    if _targets.value:
        names = {"gpu" if name in ("cuda", "rocm") else name for name in _targets.value}
        return names.pop() if len(names) == 1 else "several"
    device = jax.sharding.get_abstract_mesh().abstract_device
    if device is None:
        device = jax.config.jax_default_device or jax.devices()[0]
    return device if isinstance(device, str) else device.platform


def apart(compute: Callable, *arguments):
    """Compute in a call of its own, whose arguments and results XLA:CPU keeps in memory.

    Its fusion takes no notice of optimization barriers: it would repeat index arithmetic inside
    of every gather, and hand matrix products operands in an order that they are slow in.
    """
    with set_xla_metadata(inlineable="false"):
        return jax.jit(compute)(*arguments)

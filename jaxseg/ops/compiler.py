"""What a form of an operation has to know of the compiler, or to tell it."""

from collections.abc import Callable

import jax
from jax.experimental.xla_metadata import set_xla_metadata


def platform() -> str:
    """Of the program that is being traced: of the ambient mesh's devices, else of the default."""
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

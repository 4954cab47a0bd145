"""Floating-point operations of a program's matrix products and convolutions.

Counted on the traced program. The compiler's own count takes the body of a loop once, and kernels
of convolutions learn in loops.
"""

from collections.abc import Iterator
from math import prod

from jax.extend.core import Jaxpr


def operations(jaxpr: Jaxpr) -> int:
    """Two for each multiplication and its addition; what zeros are multiplied with is left out."""
    total = 0
    for equation in jaxpr.eqns:
        name, parameters = equation.primitive.name, equation.params
        if name == "dot_general":
            total += _product(equation)
        elif name == "conv_general_dilated":
            total += _convolution(equation)
        times = parameters["length"] if name == "scan" else 1
        total += times * sum(map(operations, _inside(parameters)))
    return total


def _product(equation) -> int:
    ((contracted, _), _) = equation.params["dimension_numbers"]
    left, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
    return 2 * prod(out) * prod(left[axis] for axis in contracted)


def _convolution(equation) -> int:
    kernel, out = equation.invars[1].aval.shape, equation.outvars[0].aval.shape
    # A kernel's input channels are those of one group.
    outputs = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
    return 2 * prod(out) * prod(kernel) // outputs // prod(equation.params["lhs_dilation"])


def _inside(parameters) -> Iterator[Jaxpr]:
    """The programs that an operation calls; of several branches all."""
    for value in parameters.values():
        for one in value if isinstance(value, list | tuple) else (value,):
            if hasattr(one, "jaxpr"):
                yield one.jaxpr
            elif hasattr(one, "eqns"):
                yield one

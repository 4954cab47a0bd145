"""Kinds `deformable_detr/*`."""

import jax
import jax.numpy as jnp

from jaxseg.kernels.ms_deform_attn import ms_deform_attn
from tests.golden.common import expect


def operation(case, inputs) -> dict:
    """`deformable_detr/ms_deform_attn`: the bare operation and its gradients."""
    expect(case.spec["config"], align_corners=False, padding="zeros", interpolation="bilinear")
    expect(case.spec["config"], pixel_coordinate="location * size - 0.5")
    return {name: _operation_run(run, inputs) for name, run in case.spec["runs"].items()}


def _operation_run(run, inputs) -> dict:
    given = {role: jnp.asarray(inputs[source]) for role, source in run["inputs"].items()}
    shapes = tuple((h, w) for h, w in run["options"]["levels"])
    arguments = {role: given[role] for role in ("value", "locations", "weights")}

    def sample(arguments):
        return ms_deform_attn(**arguments, shapes=shapes)

    output, pull_back = jax.vjp(sample, arguments)
    (gradients,) = pull_back(given["grad_output"])
    return {"output": output} | {f"grad/{role}": value for role, value in gradients.items()}


KINDS = {"deformable_detr/ms_deform_attn": operation}

"""The originals' initial distributions, which Linen's defaults are not."""

import jax
import jax.numpy as jnp
from flax import linen as nn

xavier_uniform = nn.initializers.xavier_uniform()

# U(±1/sqrt(fan_in)): torch's default for linear and convolution weights.
torch_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")

# Xavier over the packed (3d, d) projection of q, k and v has the bound sqrt(6 / 4d), which is
# sqrt(2) narrower than Xavier over each of the three.
packed_xavier_uniform = nn.initializers.variance_scaling(0.5, "fan_avg", "uniform")

kaiming_normal_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def torch_bias(fan_in: int):
    """U(±1/sqrt(fan_in)): torch's default for a bias, whose shape does not tell its fan-in."""
    bound = fan_in**-0.5

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init

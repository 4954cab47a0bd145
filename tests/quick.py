"""Compiling in less time what runs once or twice; what is computed is the same to rounding."""

import jax

QUICK = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
# As users compile, for what is said of the compiled program itself.
AS_SHIPPED = {"xla_backend_optimization_level": 3, "xla_cpu_use_fusion_emitters": True}
QUICK_FLAGS = " ".join(f"--{name}={str(value).lower()}" for name, value in QUICK.items())


def quick_jit(function, **options):
    """`jax.jit`, quick to compile outside pytest too."""
    return jax.jit(function, compiler_options=QUICK, **options)

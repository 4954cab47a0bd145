"""Every test runs with the shape annotations of the package checked at run time."""

from jaxtyping import install_import_hook

# Before anything of jaxseg is imported, or the hook would come too late for it. The structs are
# left out: as pytrees they are rebuilt with shapes, shardings or NumPy arrays as leaves.
install_import_hook(
    [
        f"jaxseg.{room}"
        for room in ("ops", "kernels", "nn", "backbones", "necks", "losses", "models")
    ],
    "beartype.beartype",
)

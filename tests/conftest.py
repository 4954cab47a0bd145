"""Every test runs with the shape annotations of the package checked at run time."""

from jaxtyping import install_import_hook

# Before anything of jaxseg is imported, or the hook would come too late for it.
install_import_hook(
    [f"jaxseg.{room}" for room in ("ops", "nn", "backbones", "losses", "models", "structures")],
    "beartype.beartype",
)

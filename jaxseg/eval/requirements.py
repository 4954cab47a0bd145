"""What evaluation needs beyond the package's own dependencies."""

from importlib.util import find_spec

from jaxseg.errors import UserError
from jaxseg.program import install_line

MODULES = {"grain": "grain", "faster_coco_eval": "faster-coco-eval"}


def check_installed() -> None:
    """Say before any work what must be installed.

    Raises:
      UserError: something of the extra `train` is missing.
    """
    if missing := [package for module, package in MODULES.items() if find_spec(module) is None]:
        raise UserError(f"evaluation needs {' and '.join(missing)}: {install_line('train')}")

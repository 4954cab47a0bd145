"""Every test runs with the shape annotations of the package checked at run time."""

import os

import pytest
from jaxtyping import install_import_hook

from tests.quick import QUICK_FLAGS

# XLA reads them when the first array is made; what the environment says comes last and so wins.
os.environ["XLA_FLAGS"] = f"{QUICK_FLAGS} {os.environ.get('XLA_FLAGS', '')}"

# Before anything of jaxseg is imported, or the hook would come too late for it. The structs are
# left out: as pytrees they are rebuilt with shapes, shardings or NumPy arrays as leaves.
install_import_hook(
    [
        f"jaxseg.{room}"
        for room in ("ops", "kernels", "nn", "backbones", "necks", "text", "losses", "models")
    ],
    "beartype.beartype",
)


@pytest.fixture(scope="session")
def tokenizer():
    """What Grounding DINO reads by, of an installed package's vocabulary."""
    from jaxseg.text.wordpiece import WordPiece
    from tests.vocabulary import FOLDER, package_file

    return WordPiece(package_file(f"{FOLDER}/vocab.txt"))

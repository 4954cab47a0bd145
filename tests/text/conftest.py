"""The vocabulary that Grounding DINO reads, from an installed package."""

import pytest

from jaxseg.text.wordpiece import WordPiece
from tests.vocabulary import FOLDER, package_file


@pytest.fixture(scope="session")
def tokenizer():
    return WordPiece(package_file(f"{FOLDER}/vocab.txt"))

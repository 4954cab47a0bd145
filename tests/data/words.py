"""A vocabulary to tokenise with, and prompts made with it."""

from jaxseg.data.prompts import Prompter, Prompts
from tests.vocabulary import FOLDER, package_file


def vocabulary() -> str:
    """The path of BERT's uncased vocabulary."""
    return str(package_file(f"{FOLDER}/vocab.txt"))


def prompter(**changes) -> Prompter:
    return Prompter(prompts(**changes))


def prompts(**changes) -> Prompts:
    return Prompts(vocabulary(), **{"length": 64, **changes})

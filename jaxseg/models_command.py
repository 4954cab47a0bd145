"""List the models that can be built, with their parameter counts."""

import argparse

from jaxseg.errors import UserError
from jaxseg.models import MODELS
from jaxseg.params import abstract_params, count


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("name", nargs="*", help="list only these")


def run(args: argparse.Namespace) -> int:
    """Print a line for each model; no weights are made."""
    if unknown := [name for name in args.name if name not in MODELS]:
        raise UserError(f"no model {unknown[0]!r}; there are {', '.join(sorted(MODELS))}")
    names = args.name or list(MODELS)
    for name in names:
        print(line(name, width=max(map(len, names))))
    return 0


def line(name: str, width: int = 0) -> str:
    """Name, parameters in millions, and the first line of the builder's docstring."""
    builder = MODELS[name]
    millions = count(abstract_params(builder())) / 1e6
    about = (builder.__doc__ or "").strip().split("\n")[0]
    return f"{name:{width}} {millions:7.2f} M  {about}"

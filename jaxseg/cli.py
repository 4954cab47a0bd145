"""The `jaxseg` command: a table of subcommands, each imported only when it is asked for."""

import argparse
import importlib
import os
import sys
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from jaxseg import __version__
from jaxseg.cache import cache_directory
from jaxseg.errors import UserError


class Command(NamedTuple):
    """A module with `add_arguments(parser)` and `run(args) -> int`, and its line in the help."""

    module: str
    help: str


COMMANDS = {
    "demo": Command("jaxseg.demo_command", "train a small detector in minutes and show it"),
    "train": Command("jaxseg.train.command", "train a model as a config file says"),
    "eval": Command("jaxseg.eval.command", "the COCO table of weights on a data set"),
    "predict": Command("jaxseg.predict.command", "detect objects in images: pictures and JSON"),
    "doctor": Command("jaxseg.data.doctor_command", "report all that is wrong with a data set"),
    "data": Command("jaxseg.data.pack_command", "pack a data set for fast random access"),
    "convert": Command("jaxseg.convert_command", "convert PyTorch weights, or write them back"),
    "verify": Command("jaxseg.verify_command", "run the probe that weights carry"),
    "models": Command("jaxseg.models_command", "list the models that can be built"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    0 is success; 1, the command found or did something wrong; 2, the user can mend it (one
    paragraph on stderr); 130, interrupted.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        args = _parse(argv)
        if "run" not in args:
            return 0
        status = args.run(args)
        sys.stdout.flush()
        return status
    except UserError as error:
        print(_paragraph(f"jaxseg: {error}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\njaxseg: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader left (`jaxseg ... | head`); keep the interpreter's last flush from failing too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="jaxseg",
        description="Detection and segmentation transformers in JAX.",
        epilog="`jaxseg COMMAND --help` describes a command.",
    )
    parser.add_argument("--version", action="version", version=f"jaxseg {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    chosen = next((word for word in argv if not word.startswith("-")), None)
    for name, command in COMMANDS.items():
        subparser = commands.add_parser(name, help=command.help)
        if name == chosen:
            _use_compilation_cache()
            module = importlib.import_module(command.module)
            subparser.description = module.__doc__.strip()
            subparser.formatter_class = argparse.RawDescriptionHelpFormatter
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run)
    args, rest = parser.parse_known_args(argv)
    # argparse fills a list of positionals once: what follows an option comes back as unknown.
    if rest and "overrides" in args and not any(word.startswith("-") for word in rest):
        args.overrides += rest
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if "run" not in args:
        parser.print_help()
    return args


def _paragraph(text: str) -> str:
    """Wrapped to 100 columns without breaking paths; the lines of a list stay lines."""
    wrap = textwrap.TextWrapper(100, break_long_words=False, break_on_hyphens=False)
    lines = []
    for line in filter(str.strip, text.splitlines()):
        wrap.initial_indent = wrap.subsequent_indent = line[: len(line) - len(line.lstrip())]
        lines.append(wrap.fill(line.strip()))
    return "\n".join(lines)


def _use_compilation_cache() -> None:
    # JAX reads the variable when it is imported, so this comes before the command's module; the
    # processes that a command starts inherit it.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_directory() / "compiled"))

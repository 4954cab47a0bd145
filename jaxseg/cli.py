"""The `jaxseg` command: a table of subcommands, each imported only when it is asked for."""

import argparse
import importlib
import os
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from jaxseg import __version__
from jaxseg.cache import cache_directory
from jaxseg.errors import UserError


class Command(NamedTuple):
    """A subcommand.

    Attributes:
      module: has `add_arguments(parser)` and `run(args) -> int`.
      help: its line in the help.
      deaf: it goes on when nobody reads what it prints.
    """

    module: str
    help: str
    deaf: bool = False


COMMANDS = {
    "demo": Command("jaxseg.demo_command", "train a small detector in minutes and show it", True),
    "train": Command("jaxseg.train.command", "train a model as a config file says", True),
    "eval": Command("jaxseg.eval.command", "the COCO table of weights on a data set"),
    "predict": Command("jaxseg.predict.command", "detect objects in images: pictures and JSON"),
    "label": Command("jaxseg.predict.label_command", "label images by words: a data set"),
    "masks": Command("jaxseg.predict.masks_command", "segment everything in images: SA-1B's form"),
    "doctor": Command("jaxseg.data.doctor_command", "report all that is wrong with a data set"),
    "data": Command("jaxseg.data.pack_command", "pack a data set for fast random access"),
    "convert": Command("jaxseg.convert_command", "convert PyTorch weights, or write them back"),
    "export": Command("jaxseg.export.command", "write a model as StableHLO or ONNX"),
    "verify": Command("jaxseg.verify_command", "run the probe that weights carry"),
    "models": Command("jaxseg.models_command", "list the models that can be built"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    0 is success; 1, the command found or did something wrong; 2, the user can mend it (one
    paragraph on stderr); 130, interrupted; 141, nobody read what it printed.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        args = _parse(argv)
        if "run" not in args:
            return 0
        with _printing(args.deaf):
            status = args.run(args)
            print(end="", flush=True)
        return status
    except UserError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        print("\njaxseg: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        _discard(sys.stdout)  # the reader left (`jaxseg ... | head`)
        _discard(sys.stderr)
        return 141
    except OSError as error:
        if error.filename is None:
            raise
        return _fail(f"{error.filename}: {error.strerror}")


def _fail(text: str) -> int:
    print(_paragraph(f"jaxseg: {text}"), file=sys.stderr)
    return 2


class _Deaf:
    """A stream that is written to as long as somebody reads it, and no complaint afterwards."""

    def __init__(self, stream):
        self._stream = stream

    def write(self, text: str) -> int:
        self._attempt(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._attempt(self._stream.flush)

    def __getattr__(self, name: str):
        return getattr(self._stream, name)

    def _attempt(self, call, *args) -> None:
        try:
            call(*args)
        except OSError:  # a broken pipe, a full disk, a terminal that is gone
            _discard(self._stream)


def _discard(stream) -> None:
    """Send what a stream still holds, and all that comes, nowhere."""
    # By its descriptor, so that the interpreter's last flush does not fail either.
    if stream is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextmanager
def _printing(deaf: bool) -> Iterator[None]:
    whole = sys.stdout, sys.stderr
    if deaf:
        sys.stdout, sys.stderr = (stream and _Deaf(stream) for stream in whole)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = whole


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
            subparser.set_defaults(run=module.run, deaf=command.deaf)
    args, rest = parser.parse_known_args(argv)
    # argparse fills a list of positionals once: what follows an option comes back as unknown.
    growing = [vars(args)[name] for name in ("overrides", "images") if name in args]
    if rest and growing and not any(word.startswith("-") for word in rest):
        growing[0] += rest
    elif rest:
        hint = f" (a setting has no dashes: {_as_setting(rest)})" if "overrides" in args else ""
        parser.error(f"unrecognized arguments: {' '.join(rest)}{hint}")
    if "run" not in args:
        parser.print_help()
    return args


def _as_setting(words: list[str]) -> str:
    """`--steps 30` or `--steps=30`, as training takes it."""
    name, _, value = next(word for word in words if word.startswith("-")).partition("=")
    after = words[words.index(name) + 1 :][:1] if name in words else []
    return f"{name.lstrip('-').replace('-', '_')}={value or ''.join(after) or '...'}"


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

"""Convert PyTorch weights to the native form, or write native weights back.

jaxseg convert detr-r50-e632da11.pth weights/detr-r50
jaxseg convert facebook/detr-resnet-50 weights/detr-r50
jaxseg convert weights/mine mine.pth --to official
jaxseg convert weights/mine mine-hf --to huggingface --classes cell,platelet
"""

import argparse
import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxseg.checkpoints import ASSUMED_COCO, open_source, save_source
from jaxseg.data.classes import Classes
from jaxseg.errors import UserError
from jaxseg.native import build_model, read_json
from jaxseg.pretrained import Source, assemble

FORMS = ("native", "official", "huggingface")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "source",
        metavar="SRC",
        help="official .pth or .safetensors file, Hugging Face folder or id, or native folder",
    )
    parser.add_argument(
        "destination", metavar="DST", type=Path, help="folder to write, or file for `official`"
    )
    parser.add_argument(
        "--model", help="builder of an official file (DC5 files look like plain ones)"
    )
    parser.add_argument(
        "--num-heads", type=int, metavar="N", help="of an official file, whose keys do not tell"
    )
    parser.add_argument(
        "--classes",
        metavar="NAMES",
        help="what the labels are called: a,b,c in their order, a text file with a name a line, "
        "or a JSON file of COCO's form",
    )
    parser.add_argument("--to", choices=FORMS, default="native", help="form to write")
    parser.add_argument("--revision", help="branch, tag or commit of a Hugging Face id")
    parser.add_argument(
        "--no-probe", action="store_true", help="leave out the digests that `verify` reads"
    )


def run(args: argparse.Namespace) -> int:
    """Convert and print a report; 2 with the whole report where something does not fit."""
    _check_apart(Path(args.source), args.destination)
    try:
        source = _open(args)
        return _to_native(args, source) if args.to == "native" else _write_back(args, source)
    except UserError as error:
        # The report has a line for each problem, which one paragraph would run together.
        if "\n" not in str(error):
            raise
        print(f"jaxseg: {error}", file=sys.stderr)
        return 2


def _check_apart(source: Path, destination: Path) -> None:
    if source.exists() and destination.exists() and source.samefile(destination):
        raise UserError(
            f"SRC and DST are both {source}, which would be overwritten; give another destination"
        )


def _open(args) -> Source:
    source = open_source(
        args.source, model=args.model, num_heads=args.num_heads, revision=args.revision
    )
    if args.classes is None:
        return source
    model = build_model(source.name, source.kwargs, args.source)
    if not hasattr(model, "num_classes"):
        raise UserError(
            f"{args.source} holds a {type(model).__name__}, which tells no classes apart: leave "
            "--classes out"
        )
    classes = read_names(args.classes, model.num_classes)
    notes = [note for note in source.notes if note not in ASSUMED_COCO.values()]
    return dataclasses.replace(source, classes=classes, notes=notes)


def read_names(said: str, count: int) -> Classes:
    """Names for `count` labels from what `--classes` says.

    COCO's categories are numbered from 0, or by their own ids where only that gives `count`.

    Raises:
      UserError: an unreadable file, or another number of names.
    """
    path = Path(said)
    if path.suffix == ".json":
        found = _read_categories(path)
    elif path.is_file():
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        found = [Classes.from_names(line.strip() for line in lines if line.strip())]
    else:
        found = [Classes.from_names(name.strip() for name in said.split(","))]
    fitting = [classes for classes in found if len(classes) == count]
    if not fitting:
        counts = " or ".join(str(len(classes)) for classes in found)
        raise UserError(
            f"--classes {said} gives {counts} names and the model has {count} labels; give one "
            "name for each label, in the labels' order"
        )
    return fitting[0]


def _read_categories(path: Path) -> list[Classes]:
    content = read_json(path)
    categories = content.get("categories") if isinstance(content, Mapping) else None
    if not isinstance(categories, list):
        raise UserError(f'{path} has no list "categories", as COCO\'s annotation files do')
    return [Classes.from_categories(categories, how) for how in ("contiguous", "raw")]


def _to_native(args, source: Source) -> int:
    for line in describe(args.source, source):
        print(line)
    save_source(source, args.destination, probe=not args.no_probe)
    print(f"wrote    {args.destination}")
    return 0


def describe(name: str, source: Source) -> list[str]:
    """The report: what was read, what model it is, what was assumed."""
    numbers = sum(value.size for value in source.flat.values())
    form = (source.origin or {}).get("table", "native")
    kwargs = ", ".join(f"{key}={value!r}" for key, value in source.kwargs.items())
    lines = [
        f"read     {name}: {form}, {len(source.flat)} parameters, {numbers / 1e6:.2f} M numbers",
        f"model    {source.name}({kwargs})",
    ]
    lines += [f"assumed  {note}" for note in source.notes]
    if source.classes is not None:
        named = sum(id_ is not None for id_ in source.classes.category_ids)
        lines.append(f"classes  {len(source.classes)} labels, {named} named")
    if source.dropped:
        shown = ", ".join(source.dropped[:3]) + (", ..." if len(source.dropped) > 3 else "")
        lines.append(f"dropped  {len(source.dropped)} keys on purpose: {shown}")
    if broken := [k for k, v in source.flat.items() if not np.isfinite(v.astype(np.float32)).all()]:
        lines.append(f"warning  not finite: {', '.join(sorted(broken))}")
    return lines


def _write_back(args, source: Source) -> int:
    from jaxseg_convert_torch.sources import write_huggingface, write_official

    for note in source.notes:
        print(f"assumed  {note}")
    pretrained = assemble(source, args.source)
    write = write_official if args.to == "official" else write_huggingface
    count = write(pretrained, args.destination)
    print(f"wrote    {args.destination}: {count} tensors of the {args.to} form")
    if count < len(source.flat):
        print(
            f"         ({len(source.flat)} parameters here: attention's query, key and value are "
            "one tensor there)"
        )
    return 0

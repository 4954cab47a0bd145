"""Convert PyTorch weights to the native form, or write native weights back.

jaxseg convert detr-r50-e632da11.pth weights/detr-r50
jaxseg convert facebook/detr-resnet-50 weights/detr-r50
jaxseg convert weights/mine mine.pth --to official
jaxseg convert weights/mine mine-hf --to huggingface
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from jaxseg.checkpoints import Source, from_pretrained, open_source, save_source
from jaxseg.errors import UserError

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
    parser.add_argument("--to", choices=FORMS, default="native", help="form to write")
    parser.add_argument("--revision", help="branch, tag or commit of a Hugging Face id")
    parser.add_argument(
        "--no-probe", action="store_true", help="leave out the digests that `verify` reads"
    )


def run(args: argparse.Namespace) -> int:
    """Convert and print a report; 2 with the whole report where something does not fit."""
    try:
        if args.to == "native":
            return _to_native(args)
        return _write_back(args)
    except UserError as error:
        # The report has a line for each problem, which one paragraph would run together.
        if "\n" not in str(error):
            raise
        print(f"jaxseg: {error}", file=sys.stderr)
        return 2


def _to_native(args) -> int:
    source = open_source(args.source, model=args.model, revision=args.revision)
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


def _write_back(args) -> int:
    from jaxseg_convert_torch.sources import write_huggingface, write_official

    pretrained = from_pretrained(args.source, model=args.model, revision=args.revision)
    write = write_official if args.to == "official" else write_huggingface
    count = write(pretrained, args.destination)
    print(f"wrote    {args.destination}: {count} tensors of the {args.to} form")
    return 0

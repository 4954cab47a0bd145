"""Pack a data set for fast random access.

jaxseg data pack SRC DST                       one split, train
jaxseg data pack train=SRC1 val=SRC2 DST       several

Writes TFDS ArrayRecord files, which need no TensorFlow to read; train on DST/train afterwards.
"""

import argparse
import re
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    packing = actions.add_parser("pack", help="write TFDS ArrayRecord files")
    packing.add_argument(
        "source",
        nargs="+",
        help="a data set as for training, for example a COCO json file; NAME=SOURCE names a split",
    )
    packing.add_argument("destination", help="a folder that does not exist yet")


def run(args: argparse.Namespace) -> int:
    """Pack and say what came of it."""
    from jaxseg.data.dataset import open_dataset
    from jaxseg.data.pack import pack
    from jaxseg.errors import UserError

    named = [_split(source) for source in args.source]
    if len({name for name, _ in named}) < len(named):
        raise UserError("each source needs a split of its own: NAME=SOURCE NAME=SOURCE")
    splits = {name: open_dataset(source) for name, source in named}
    pack(splits, args.destination)
    for name, dataset in splits.items():
        print(f"{args.destination}/{name}: {len(dataset)} images, {len(dataset.classes)} classes")
    return 0


def _split(source: str) -> tuple[str, str]:
    match = re.match(r"([A-Za-z]\w*)=(.+)", source)
    if match is None or Path(source).exists():
        return "train", source
    return match[1], match[2]

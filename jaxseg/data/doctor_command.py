"""Report everything that is wrong with a data set.

Exit status 1 if anything would break training, 0 otherwise.
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.add_argument("dataset", help="as for training, for example a COCO json file")
    parser.add_argument(
        "--examples", type=int, default=5, metavar="N", help="shown of each kind of fault (5)"
    )


def run(args: argparse.Namespace) -> int:
    """Print the report."""
    from jaxseg.data.doctor import examine

    report = examine(args.dataset)
    for line in report.lines(args.examples):
        print(line)
    return 0 if report.ok else 1

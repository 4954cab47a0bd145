"""Run the probe that weights carry, on whatever chip is there, and name the first drift.

jaxseg verify weights/detr-r50
"""

import argparse
from pathlib import Path

import jax

from jaxseg import native
from jaxseg.checkpoints import from_pretrained
from jaxseg.errors import UserError
from jaxseg.probe import Drift, compare, record_probe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("directory", metavar="DIR", type=Path, help="a folder of save_pretrained")
    parser.add_argument(
        "--precision",
        choices=("highest", "default"),
        default="highest",
        help="of matmuls; `default` shows what this chip does unless told otherwise",
    )
    parser.add_argument("--all", action="store_true", help="print every block's drift")


def run(args: argparse.Namespace) -> int:
    """0 if the file is what was saved and no block drifts, else 1."""
    if not args.directory.is_dir():
        raise UserError(f"there is no folder {args.directory}: give one of native weights")
    if not native.is_native(args.directory):
        raise UserError(
            f"the folder {args.directory} has no config.json of jaxseg: `jaxseg convert` makes "
            f"native weights of others{native.beneath(args.directory)}"
        )
    intact = _check_file(args.directory)
    drifts = verify(args.directory, args.precision)
    for drift in drifts if args.all else ():
        print(_line(drift))
    bad = [drift for drift in drifts if not drift.ok]
    device = jax.devices()[0]
    print(f"{len(drifts) - len(bad)} of {len(drifts)} blocks agree on {device.device_kind}")
    if bad:
        print(f"first drift: {_line(bad[0])}")
    return int(bool(bad) or not intact)


def verify(directory: Path, precision: str = "highest") -> list[Drift]:
    """The drift of every block against the folder's probe, in order of execution.

    Raises:
      UserError: unreadable weights, or saved without a probe.
    """
    if not (directory / native.PROBE).exists():
        raise UserError(
            f"{directory} was saved without a probe, so there is nothing to compare with; "
            "`jaxseg convert` adds one"
        )
    recorded = native.read_json(directory / native.PROBE)
    loaded = from_pretrained(directory)
    probe = record_probe(loaded.name, loaded.kwargs, loaded.params, loaded.image, precision)
    return compare(recorded, probe["blocks"])


def _check_file(directory: Path) -> bool:
    config = native.read_native_config(directory)
    weights = directory / native.WEIGHTS
    if weights.exists() and native.sha256(weights) != config.get("sha256"):
        print(f"{weights}: its SHA-256 is not the recorded one; it is damaged or was replaced")
        return False
    return True


def _line(drift: Drift) -> str:
    verdict = "ok" if drift.ok else "DRIFT"
    return f"{verdict:6} {drift.name:40} off by {drift.error:.1e}, allowed {drift.tolerance:.0e}"

"""Train a small detector on shapes that are made on the fly, and show what it finds.

jaxseg demo
jaxseg demo --out demo --steps 500

It trains the config dino/synthetic, prints the COCO table of images that it has never seen, and
draws what it finds in some more. The same command goes on where it was interrupted; an OUT with
a finished run is evaluated and drawn again.
"""

import argparse
import shlex
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

from jaxseg.errors import require_share
from jaxseg.eval.requirements import check_installed
from jaxseg.program import program

CONFIG = "dino/synthetic"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--out", type=Path, default=Path("demo"), help="default: %(default)s")
    parser.add_argument("--steps", type=int, help="of training (default: the config's)")
    parser.add_argument(
        "--threshold", type=float, default=0.4, help="least score drawn (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Train, evaluate, draw, and say what to do next."""
    _check(args)
    import jax

    from jaxseg.parallel.shard import rounded_up
    from jaxseg.train.configs import load_config

    data, devices = load_config(CONFIG).data, jax.device_count()
    trained, weights = args.out / "run", args.out / "run" / "best"
    changes = _batches(data, devices)
    changes += [] if args.steps is None else [f"steps={args.steps}"]
    status = _jaxseg("train", CONFIG, *changes, "--workdir", trained)
    if status or not weights.is_dir():
        return status  # a signal stopped the training, which has said how to go on
    at_once = rounded_up(data.eval_batch_size, devices)
    if status := _jaxseg("eval", weights, _other(data.val, seed=2), "--batch-size", at_once):
        return status
    # Finer than what it was trained on; the detector shrinks them.
    pictures = _other(data.val, seed=3, count=12, size=288)
    picture = _draw(weights, pictures, args.out, args.threshold)
    print(f"\nunseen images, and what was found in them: {picture}\n\n{_next(weights)}")
    return 0


def _check(args: argparse.Namespace) -> None:
    from jaxseg.predict.outputs import check_folder

    require_share("--threshold", args.threshold)
    check_folder("--out", args.out)
    check_installed()


def _batches(data, devices: int) -> list[str]:
    """Overrides of a config's batches that do not divide among the devices."""
    from jaxseg.parallel.shard import rounded_up

    sizes = {"batch_size": data.batch_size, "eval_batch_size": data.eval_batch_size}
    return [
        f"data.{name}={rounded_up(size, devices)}" for name, size in sizes.items() if size % devices
    ]


def _jaxseg(*words) -> int:
    """Run a command as a user would, showing its line first; returns its exit status."""
    from jaxseg.cli import main

    line = [str(word) for word in words]
    print(f"\n$ jaxseg {shlex.join(line)}", flush=True)
    return main(line)


def _other(scenes: str, **options: int) -> str:
    """The synthetic data set `scenes` with some of its options replaced."""
    name, _, query = scenes.partition("?")
    return f"{name}?{urlencode(dict(parse_qsl(query)) | options)}"


def _draw(weights: Path, pictures: str, out: Path, threshold: float) -> Path:
    from jaxseg.data import open_dataset
    from jaxseg.predict import Detector
    from jaxseg.predict.draw import draw
    from jaxseg.predict.sheet import sheet

    dataset = open_dataset(pictures)
    images = [dataset[i].image for i in range(len(dataset))]
    detector = Detector.from_pretrained(str(weights), batch_size=4)
    found = detector(images, threshold)
    path = out / "detections.png"
    sheet([draw(*pair) for pair in zip(images, found, strict=True)]).save(path)
    return path


def _next(weights: Path) -> str:
    jaxseg = program()
    return f"""\
Next, with images of your own:
  {jaxseg} predict YOUR_IMAGES --weights {shlex.quote(str(weights))}   # it only knows these shapes
  {jaxseg} doctor YOUR_DATA/annotations.json   # is the data set sound?
  {jaxseg} train detr/finetune init=facebook/detr-resnet-50 \\
      data.train=YOUR_DATA/train.json data.val=YOUR_DATA/val.json"""

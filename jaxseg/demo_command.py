"""Train a small detector on shapes that are made on the fly, and show what it finds.

jaxseg demo
jaxseg demo --out demo --steps 500

It trains the config detr/synthetic, prints the COCO table of images that it has never seen, and
draws what it finds in some more. The same command goes on where it was interrupted; an OUT with
a finished run is evaluated and drawn again.
"""

import argparse
import shlex
from pathlib import Path

from jaxseg.errors import UserError

CONFIG = "detr/synthetic"
UNSEEN = "synthetic:shapes?count=200&seed=2&size=96&objects=3&classes=3"
# The same kind of scenes, finer; the detector shrinks them to what it was trained on.
PICTURES = "synthetic:shapes?count=12&seed=3&size=288&objects=3&classes=3"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--out", type=Path, default=Path("demo"), help="default: %(default)s")
    parser.add_argument("--steps", type=int, help="of training (default: the config's)")
    parser.add_argument(
        "--threshold", type=float, default=0.5, help="least score drawn (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Train, evaluate, draw, and say what to do next."""
    if args.out.exists() and not args.out.is_dir():
        raise UserError(f"--out {args.out} is a file: name a folder")
    trained, weights = args.out / "run", args.out / "run" / "best"
    steps = [] if args.steps is None else [f"steps={args.steps}"]
    status = _jaxseg("train", CONFIG, *steps, "--workdir", trained)
    if status or not weights.is_dir():
        return status  # a signal stopped the training, which has said how to go on
    if status := _jaxseg("eval", weights, UNSEEN, "--batch-size", 20):
        return status
    picture = _draw(weights, args.out, args.threshold)
    print(f"\nunseen images, and what was found in them: {picture}\n\n{_next(weights)}")
    return 0


def _jaxseg(*words) -> int:
    """Run a command as a user would, showing its line first; returns its exit status."""
    from jaxseg.cli import main

    line = [str(word) for word in words]
    print(f"\n$ jaxseg {shlex.join(line)}", flush=True)
    return main(line)


def _draw(weights: Path, out: Path, threshold: float) -> Path:
    from jaxseg.data import open_dataset
    from jaxseg.predict import Detector
    from jaxseg.predict.draw import draw
    from jaxseg.predict.sheet import sheet

    dataset = open_dataset(PICTURES)
    images = [dataset[i].image for i in range(len(dataset))]
    detector = Detector.from_pretrained(str(weights), batch_size=4)
    found = detector(images, threshold)
    path = out / "detections.png"
    sheet([draw(*pair) for pair in zip(images, found, strict=True)]).save(path)
    return path


def _next(weights: Path) -> str:
    return f"""\
Next, with images of your own:
  jaxseg predict YOUR_IMAGES --weights {weights}        # it only knows these shapes
  jaxseg doctor YOUR_DATA/annotations.json              # is the data set sound?
  jaxseg train detr/finetune init=facebook/detr-resnet-50 \\
      data.train=YOUR_DATA/train.json data.val=YOUR_DATA/val.json"""

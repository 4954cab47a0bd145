"""Detect objects in images, folders of images or patterns; write pictures and predictions.json.

jaxseg predict holiday/ --weights facebook/detr-resnet-50 --out found
jaxseg predict a.jpg 'b/*.png' --weights runs/cells/best --threshold 0.3

An image that cannot be read is named and skipped; the exit status is then 1.
"""

import argparse
import glob
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jaxseg.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from jaxseg.predict.detector import Detector
    from jaxseg.predict.result import Prediction

SUFFIXES = (
    ".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff",
    ".webp",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("images", nargs="+", metavar="IMAGES", help="files, folders or patterns")
    parser.add_argument("--weights", required=True, help="folder of weights, or a Hugging Face id")
    parser.add_argument(
        "--out", type=Path, default=Path("predictions"), help="default: %(default)s"
    )
    parser.add_argument(
        "--threshold", type=float, default=0.5, help="least score shown (default: %(default)s)"
    )
    parser.add_argument(
        "--batch-size", type=int, default=1, help="images at once (default: %(default)s)"
    )
    parser.add_argument(
        "--coco", type=Path, metavar="FILE", help="also write COCO's form of results to FILE"
    )


def run(args: argparse.Namespace) -> int:
    """Predict as the arguments say; 1 if an image had to be skipped."""
    _check(args)
    paths = find_images(args.images)
    outputs = name_outputs(paths, args.out)
    from jaxseg.predict.detector import Detector

    detector = Detector.from_pretrained(args.weights, batch_size=args.batch_size)
    args.out.mkdir(parents=True, exist_ok=True)
    found = {}
    skipped = []
    for path, image, answer in _predict(detector, paths, args.threshold):
        if isinstance(answer, UserError):
            skipped.append(path)
            _say(f"skipped: {answer}")
        else:
            found[path] = answer
            _save_picture(image, answer, outputs[path])
    _write(args, found, outputs, detector)
    print(_summary(found, skipped, args.out))
    return 1 if skipped else 0


def find_images(arguments: Sequence[str]) -> list[Path]:
    """The files that arguments name: files as they are, images in folders, matches of patterns.

    Each comes once, in the order of the arguments and sorted within each of them.

    Raises:
      UserError: an argument names nothing.
    """
    found: dict[Path, None] = {}
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            files = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
            missing = f"the folder {path} holds no images ({' '.join(SUFFIXES)})"
        elif path.exists():
            files, missing = [path], ""
        else:
            files = sorted(p for p in map(Path, glob.glob(argument, recursive=True)) if p.is_file())
            missing = f"no image at {argument}: check the path"
        if not files:
            raise UserError(missing)
        found.update(dict.fromkeys(files))
    return list(found)


def name_outputs(paths: Sequence[Path], folder: Path) -> dict[Path, Path]:
    """Where each picture goes: its own name in `folder`, numbered where names collide.

    Raises:
      UserError: a picture would overwrite one of the images.
    """
    outputs: dict[Path, Path] = {}
    taken: set[str] = set()
    for path in paths:
        suffix = ".png" if path.suffix.lower() == ".png" else ".jpg"
        names = (f"{path.stem}{tail}{suffix}" for tail in _tails())
        name = next(name for name in names if name.lower() not in taken)
        taken.add(name.lower())
        outputs[path] = folder / name
    originals = {path.resolve() for path in paths}
    for output in outputs.values():
        if output.resolve() in originals:
            raise UserError(
                f"the picture {output} would overwrite an image: choose another folder with --out"
            )
    return outputs


def _tails() -> Iterator[str]:
    yield ""
    number = 2
    while True:
        yield f"_{number}"
        number += 1


def _check(args: argparse.Namespace) -> None:
    if not 0 <= args.threshold <= 1:
        raise UserError(f"--threshold must lie in [0, 1]; got {args.threshold}")
    if args.batch_size < 1:
        raise UserError(f"--batch-size must be 1 or more; got {args.batch_size}")
    if args.out.exists() and not args.out.is_dir():
        raise UserError(f"--out {args.out} is a file: name a folder")


def _predict(
    detector: "Detector", paths: Sequence[Path], threshold: float
) -> "Iterator[tuple[Path, np.ndarray | None, Prediction | UserError]]":
    """Each path with its image and what was found, or with why it cannot be read."""
    from tqdm import tqdm

    from jaxseg.predict.preprocess import load_image

    # Enough images at a time to fill batches of several canvas sizes.
    stride = 4 * detector.batch_size
    with tqdm(total=len(paths), unit="image", disable=None) as bar:
        for start in range(0, len(paths), stride):
            loaded = {}
            for path in paths[start : start + stride]:
                try:
                    loaded[path] = load_image(path)
                except UserError as error:
                    yield path, None, error
                    bar.update()
            answers = detector(list(loaded.values()), threshold)
            for path, answer in zip(loaded, answers, strict=True):
                yield path, loaded[path], answer
                bar.update()


def _say(text: str) -> None:
    from tqdm import tqdm

    tqdm.write(text, file=sys.stderr)


def _save_picture(image: "np.ndarray", prediction: "Prediction", output: Path) -> None:
    from jaxseg.predict.draw import draw

    partial = output.with_name(f".partial-{output.name}")
    draw(image, prediction).save(partial, quality=92)
    partial.replace(output)


def _write(args, found: dict, outputs: dict, detector: "Detector") -> None:
    from jaxseg.predict.result import write_json

    records = [
        {"file": str(path), "picture": outputs[path].name, **prediction.to_dict()}
        for path, prediction in found.items()
    ]
    write_json(args.out / "predictions.json", records)
    if args.coco:
        args.coco.parent.mkdir(parents=True, exist_ok=True)
        ids = detector.classes.category_ids if detector.classes else None
        write_json(args.coco, [r for path in found for r in coco_form(path, found[path], ids)])


def coco_form(path: Path, prediction: "Prediction", category_ids: Sequence | None) -> list[dict]:
    """COCO records of one image; its id is the number in its file name, else the name.

    Without `category_ids`, a label is its own category.
    """
    image_id = int(path.stem) if path.stem.isdecimal() else path.name
    return [
        {
            "image_id": image_id,
            "category_id": int(label) if category_ids is None else category_ids[label],
            "bbox": [round(float(x), 3) for x in (*box[:2], *(box[2:] - box[:2]))],
            "score": float(score),
        }
        for box, score, label in zip(
            prediction.boxes, prediction.scores, prediction.labels, strict=True
        )
    ]


def _summary(found: dict, skipped: list[Path], out: Path) -> str:
    counts = Counter(name for prediction in found.values() for name in prediction.names)
    words = ", ".join(f"{name} {count}" for name, count in counts.most_common(8)) or "none"
    more = f" and {len(counts) - 8} classes more" if len(counts) > 8 else ""
    images = "1 image" if len(found) == 1 else f"{len(found)} images"
    lines = [
        f"{images}, {counts.total()} objects: {words}{more}",
        f"pictures and predictions.json are in {out}",
    ]
    if skipped:
        lines.append(f"{len(skipped)} skipped: {', '.join(map(str, skipped))}")
    return "\n".join(lines)

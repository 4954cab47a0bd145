"""Detect objects in images, folders of images or patterns; write pictures and predictions.json.

jaxseg predict holiday/ --weights facebook/detr-resnet-50 --out found
jaxseg predict a.jpg 'b/*.png' --weights runs/cells/best --threshold 0.3

An image that cannot be read, or whose picture cannot be saved, is named and skipped; the exit
status is then 1. A run into the folder of an earlier one takes the place of its pictures, and
overwrites nothing else.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jaxseg.errors import UserError
from jaxseg.predict.coco_form import check_image_ids, coco_form
from jaxseg.predict.inputs import find_images
from jaxseg.predict.outputs import (
    LISTING,
    check_file,
    check_folder,
    check_targets,
    listed_pictures,
    name_outputs,
    remove_pictures,
)

if TYPE_CHECKING:
    from jaxseg.predict.detector import Detector
    from jaxseg.predict.result import Prediction


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("images", nargs="+", metavar="IMAGES", help="files, folders or patterns")
    parser.add_argument("--weights", required=True, help="folder of weights, or a Hugging Face id")
    parser.add_argument("--model", help="builder of an official file (DC5 files look plain)")
    parser.add_argument("--revision", help="branch, tag or commit of a Hugging Face id")
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
        "--coco",
        type=Path,
        metavar="FILE",
        help="also write COCO's form of results to FILE: the image_id is the number in a file's "
        "name, else the name; boxes are in pixels of the image turned upright by its EXIF",
    )


def run(args: argparse.Namespace) -> int:
    """Predict as the arguments say; 1 if an image had to be skipped."""
    outputs = _plan(args)
    from jaxseg.predict.detector import Detector
    from jaxseg.predict.result import refuse_not_finite

    detector = Detector.from_pretrained(
        args.weights, model=args.model, revision=args.revision, batch_size=args.batch_size
    )
    found: dict[Path, Prediction] = {}
    skipped: list[Path] = []
    try:
        with refuse_not_finite(args.weights):
            _detect_and_draw(detector, outputs, args.threshold, found, skipped)
    except BaseException:
        # The next run may only replace pictures that are listed.
        if found:
            _write(args, found, outputs, detector)
        raise
    _write(args, found, outputs, detector)
    print(_summary(found, skipped, args.out))
    return 1 if skipped else 0


def _plan(args: argparse.Namespace) -> dict[Path, Path]:
    """Each image and where its picture goes; all mistakes are found here."""
    if not 0 <= args.threshold <= 1:
        raise UserError(f"--threshold must lie in [0, 1]; got {args.threshold}")
    if args.batch_size < 1:
        raise UserError(f"--batch-size must be 1 or more; got {args.batch_size}")
    check_folder("--out", args.out)
    check_file("--coco", args.coco)
    paths = find_images(args.images)
    if args.coco:
        check_image_ids(paths)
    outputs = name_outputs(paths, args.out)
    check_targets(outputs, args.out, args.coco)
    return outputs


def _detect_and_draw(
    detector: "Detector", outputs: dict[Path, Path], threshold: float, found: dict, skipped: list
) -> None:
    """Fill `found` and `skipped`, and save the pictures."""
    for path, answer in _predict(detector, list(outputs), threshold):
        if not isinstance(answer, UserError):
            answer = _save_picture(path, answer, outputs[path])
        if isinstance(answer, UserError):
            skipped.append(path)
            _say(f"skipped: {answer}")
        else:
            found[path] = answer


def _predict(
    detector: "Detector", paths: Sequence[Path], threshold: float
) -> "Iterator[tuple[Path, Prediction | UserError]]":
    """Each path with what was found, or with why it cannot be read."""
    from tqdm import tqdm

    # Enough images at a time to fill batches of several canvas sizes.
    stride = 4 * detector.batch_size
    with tqdm(total=len(paths), unit="image", disable=None) as bar:
        for start in range(0, len(paths), stride):
            prepared = {}
            for path in paths[start : start + stride]:
                try:
                    prepared[path] = detector.prepare(path)
                except UserError as error:
                    yield path, error
                    bar.update()
            answers = detector.detect(prepared.values(), threshold)
            for path, answer in zip(prepared, answers, strict=True):
                yield path, answer
                bar.update()


def _say(text: str) -> None:
    from tqdm import tqdm

    tqdm.write(text, file=sys.stderr)


def _save_picture(path: Path, prediction: "Prediction", output: Path) -> "Prediction | UserError":
    """`prediction`, or why its picture cannot be saved."""
    from jaxseg.predict.draw import draw

    # The image is read again: keeping a batch of originals takes gigabytes.
    partial = output.with_name(f".partial{output.suffix}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        draw(path, prediction).save(partial, quality=92)
        partial.replace(output)
    except (OSError, ValueError) as error:
        partial.unlink(missing_ok=True)
        return UserError(f"cannot save the picture of {path} as {output}: {error}")
    except UserError as error:
        return error
    return prediction


def _write(args, found: dict, outputs: dict, detector: "Detector") -> None:
    from jaxseg.predict.result import write_json

    before = listed_pictures(args.out)
    records = [
        {"file": str(path), "picture": outputs[path].name, **prediction.to_dict()}
        for path, prediction in found.items()
    ]
    write_json(args.out / LISTING, records)
    remove_pictures(args.out, before - {record["picture"] for record in records}, keep=outputs)
    if args.coco:
        ids = detector.classes.category_ids if detector.classes else None
        write_json(args.coco, [r for path in found for r in coco_form(path, found[path], ids)])


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

"""Label images by words, with Grounding DINO: a data set to train on, or to correct first.

jaxseg label holiday/ --weights IDEA-Research/grounding-dino-tiny --text car 'stop sign'
jaxseg label holiday/ --weights mine --text 'a car. a dog.' --sam facebook/sam-vit-base --out l.json
jaxseg label 'b/*.png' --weights mine --text car dog --out labels.jsonl

A .json becomes COCO's form: images, boxes with scores, categories (ids from 1 in the order of
--text), and with --sam masks as run lengths. A .jsonl becomes ODVG's, with boxes alone, and
NAME_label_map.json beside it names the labels, from 0. Images in which nothing was found are in
both: that, too, is known of them. File names are relative to the folder of the labels; pixels are
those that a file stores, as COCO's tools read them, also where its EXIF turns the picture.

What is done is kept in NAME.progress at once, so that the same command goes on where it was
stopped, and labels only what is new where images have come. The labels are written when all is
done. An image that cannot be read is named and left out; the exit status is then 1.
"""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxseg.errors import UserError
from jaxseg.predict.grounded import BOX, GroundedDetector
from jaxseg.predict.inputs import find_images
from jaxseg.predict.outputs import check_file
from jaxseg.predict.walk import say, walk
from jaxseg.predict.words import (
    add_masks,
    add_what,
    check_what,
    identity,
    named_weights,
    text_of,
)

if TYPE_CHECKING:
    from jaxseg.predict.grounded_segmenter import GroundedSegmenter
    from jaxseg.predict.label_log import Log

FORMS = {"coco": ".json", "odvg": ".jsonl"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("images", nargs="+", metavar="IMAGES", help="files, folders or patterns")
    parser.add_argument(
        "--weights",
        required=True,
        help="Grounding DINO's: folder, official .pth or .safetensors file, or Hugging Face id",
    )
    parser.add_argument("--model", help="builder of an official file")
    parser.add_argument("--revision", help="branch, tag or commit of a Hugging Face id")
    add_what(parser, required=True)
    add_masks(parser)
    parser.add_argument(
        "--out", type=Path, default=Path("labels.json"), help="default: %(default)s"
    )
    parser.add_argument("--form", choices=FORMS, help="default: as --out ends, .json or .jsonl")
    parser.add_argument(
        "--batch-size", type=int, default=1, help="images at once (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Label as the arguments say; 1 if an image had to be skipped."""
    check_what(args)
    args.box_threshold = BOX if args.box_threshold is None else args.box_threshold
    form = _form(args)
    paths = _images(args)
    log = _log(args, form)
    todo = [path for path in paths if str(path.resolve()) not in log.done]
    if len(todo) < len(paths):
        print(
            f"{len(paths) - len(todo)} of {len(paths)} images are labelled already", file=sys.stderr
        )
    finder, phrases = _open(args)
    skipped: list[Path] = []
    if todo:
        from jaxseg.predict.result import refuse_not_finite

        try:
            with refuse_not_finite(named_weights(args)):
                _label(args, finder, todo, log, skipped)
        except BaseException:
            if log.done:
                say(f"{log.path} keeps what is done: the same command goes on")
            raise
    images = {
        path: log.done[str(path.resolve())] for path in paths if str(path.resolve()) in log.done
    }
    if images:
        _write(args.out, form, images, phrases)
    print(_summary(args.out, form, images, phrases, skipped))
    return 1 if skipped else 0


def _form(args: argparse.Namespace) -> str:
    """The form of the labels, by name.

    Raises:
      UserError: neither `--form` nor the suffix says it, it has no place for masks, or `--out` can
        be no file.
    """
    check_file("--out", args.out)
    form = args.form or {suffix: name for name, suffix in FORMS.items()}.get(args.out.suffix)
    if form is None:
        raise UserError(
            f"--out {args.out} ends neither in .json (COCO) nor in .jsonl (ODVG): say which with "
            "--form coco or --form odvg"
        )
    if form == "odvg" and args.sam is not None:
        raise UserError("ODVG has no masks: leave --sam out, or write COCO's form with --form coco")
    if args.batch_size < 1:
        raise UserError(f"--batch-size must be 1 or more; got {args.batch_size}")
    return form


def _images(args: argparse.Namespace) -> list[Path]:
    paths = find_images(args.images)
    if args.out.resolve() in {path.resolve() for path in paths}:
        raise UserError(f"--out {args.out} is one of the images: name another file")
    return paths


def _log(args: argparse.Namespace, form: str) -> "Log":
    """What is done already.

    Raises:
      UserError: other settings, or a file that no such run wrote would be overwritten.
    """
    from jaxseg.predict.label_forms import label_map
    from jaxseg.predict.label_log import Log

    weights = {name: identity(getattr(args, name)) for name in ("weights", "vocab", "sam")}
    said = {name: getattr(args, name) for name in ("model", "revision", "box_threshold", "nms_iou")}
    log = Log(args.out, {**weights, **said, "text": text_of(args.text), "form": form})
    if not log.path.exists():
        for path in (args.out, *([label_map(args.out)] if form == "odvg" else [])):
            if os.path.lexists(path):
                raise UserError(
                    f"{path} would be overwritten, and no run wrote it (there is no {log.path}): "
                    "choose another file with --out, or move it away"
                )
    return log


def _open(
    args: argparse.Namespace,
) -> "tuple[GroundedDetector | GroundedSegmenter, tuple[str, ...]]":
    """What finds, and the phrases that it finds.

    Raises:
      UserError: no such weights, or a text that cannot be read or would name two categories alike.
    """
    from jaxseg.checkpoints import from_pretrained
    from jaxseg.predict.words import open_words, phrases_of

    weights = from_pretrained(args.weights, model=args.model, revision=args.revision)
    finder = open_words(args, weights)
    phrases = phrases_of(finder, args.text)
    for name, times in Counter(phrase.lower() for phrase in phrases).items():
        if times > 1:
            raise UserError(f"--text names {name!r} {times} times: a data set names a class once")
    return finder, phrases


def _label(
    args: argparse.Namespace, finder: Any, paths: Sequence[Path], log: "Log", skipped: list[Path]
) -> None:
    """Add every image to the log, or to `skipped`."""
    from jaxseg.predict.label_forms import record_of
    from jaxseg.predict.stored import as_stored, turn_of

    text = text_of(args.text)
    for path, found in walk(finder, lambda x: finder.detect(x, text, args.box_threshold), paths):
        if isinstance(found, UserError):
            skipped.append(path)
            say(f"skipped: {found}")
            continue
        turn = turn_of(path)
        log.add(record_of(path, found if turn is None else as_stored(found, turn), bool(turn)))


def _write(out: Path, form: str, images: dict[Path, dict], phrases: Sequence[str]) -> None:
    from jaxseg.predict.label_forms import write_coco, write_lines

    (write_coco if form == "coco" else write_lines)(out, images, phrases)


def _summary(
    out: Path, form: str, images: dict[Path, dict], phrases: Sequence[str], skipped: list[Path]
) -> str:
    from jaxseg.predict.label_forms import label_map

    objects = [one for record in images.values() for one in record["objects"]]
    counts = Counter(phrases[one["label"]] for one in objects)
    words = ", ".join(f"{name} {count}" for name, count in counts.most_common(8)) or "none"
    more = f" and {len(counts) - 8} classes more" if len(counts) > 8 else ""
    empty = sum(not record["objects"] for record in images.values())
    turned = sum(record["turned"] for record in images.values())
    number = "1 image" if len(images) == 1 else f"{len(images)} images"
    lines = [f"{number}, {len(objects)} objects: {words}{more}; {empty} without any"]
    if images and form == "coco":
        lines.append(f"the labels are in {out}, in COCO's form")
    elif images:
        lines.append(f"the labels are in {out}, in ODVG's form, their names in {label_map(out)}")
    else:
        lines.append("no labels are written")
    if turned:
        lines.append(f"{turned} stored turned (EXIF): their labels are in pixels as stored")
    if skipped:
        lines.append(f"{len(skipped)} skipped: {', '.join(map(str, skipped))}")
    return "\n".join(lines)

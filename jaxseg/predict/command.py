"""Detect objects in images, folders of images or patterns; write pictures and predictions.json.

jaxseg predict holiday/ --weights facebook/detr-resnet-50 --out found
jaxseg predict a.jpg 'b/*.png' --weights runs/cells/best --threshold 0.3
jaxseg predict holiday/ --weights facebook/detr-resnet-50-panoptic --panoptic scenes.json
jaxseg predict holiday/ --weights IDEA-Research/grounding-dino-tiny --text 'a red car. a dog.'
jaxseg predict truck.jpg --weights facebook/sam-vit-base --points 500,375 1125,625,0

Weights of Grounding DINO need --text; with --sam, Segment Anything draws the masks of what is
found. Weights of Segment Anything need prompts, the same for all images: points of one object (x
and y in pixels, and 0 for one that is outside of it), or boxes of several.
An image that cannot be read, or whose picture cannot be saved, is named and skipped; the exit
status is then 1. A run into the folder of an earlier one takes the place of its pictures, and
overwrites nothing else.
"""

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxseg.errors import UserError, require_share
from jaxseg.predict.coco_form import check_image_ids
from jaxseg.predict.grounded import BOX, WORDS, GroundedDetector
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
from jaxseg.predict.walk import say, walk
from jaxseg.predict.words import add_masks, add_what, check_what, named_weights

if TYPE_CHECKING:
    from jaxseg.predict.detector import Detector
    from jaxseg.predict.grounded_segmenter import GroundedSegmenter
    from jaxseg.predict.panoptic_form import PanopticFiles
    from jaxseg.predict.prompter import Prompter
    from jaxseg.predict.tasks import Kept, Task

    Finder = Detector | Prompter | GroundedDetector | GroundedSegmenter

OBJECTS, SCENES = 0.5, 0.85  # default thresholds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("images", nargs="+", metavar="IMAGES", help="files, folders or patterns")
    parser.add_argument(
        "--weights",
        required=True,
        help="folder of weights, official .pth or .safetensors file, or Hugging Face id",
    )
    parser.add_argument("--model", help="builder of an official file (DC5 files look plain)")
    parser.add_argument("--revision", help="branch, tag or commit of a Hugging Face id")
    parser.add_argument(
        "--out", type=Path, default=Path("predictions"), help="default: %(default)s"
    )
    parser.add_argument(
        "--threshold",
        type=float,
        help=f"least score shown (default: {OBJECTS}; for --panoptic {SCENES}; for --text it is "
        f"--box-threshold, {BOX})",
    )
    parser.add_argument(
        "--batch-size", type=int, default=1, help="images at once (default: %(default)s)"
    )
    words = parser.add_argument_group("words, for weights of Grounding DINO")
    add_what(words)
    words.add_argument(
        "--text-threshold",
        type=float,
        metavar="P",
        help=f'words likelier than this are an object\'s "text" in JSON (default: {WORDS})',
    )
    add_masks(words)
    prompts = parser.add_argument_group("prompts, for weights of Segment Anything")
    prompts.add_argument(
        "--points", nargs="+", default=[], metavar="X,Y[,0]", help="points of one object"
    )
    prompts.add_argument(
        "--boxes", nargs="+", default=[], metavar="X0,Y0,X1,Y1", help="a box for each object"
    )
    prompts.add_argument(
        "--masks",
        nargs="*",
        metavar="FILE.npy",
        help="low-resolution logits of an earlier answer, for each object; with --text no file: "
        "draw masks by --sam",
    )
    forms = parser.add_mutually_exclusive_group()
    forms.add_argument(
        "--coco",
        type=Path,
        metavar="FILE",
        help="also write COCO's form of results to FILE, those above the threshold: the image_id "
        "is the number in a file's name, else the name; boxes are in pixels of the image turned "
        "upright by its EXIF; with --text, the category_id is the place of the phrase, from 1",
    )
    forms.add_argument(
        "--panoptic",
        type=Path,
        metavar="FILE.json",
        help="divide every image into things and stuff, draw that, and write COCO's panoptic form: "
        "FILE.json and the PNG files of ids in the folder FILE",
    )


def run(args: argparse.Namespace) -> int:
    """Predict as the arguments say; 1 if an image had to be skipped."""
    _check_words(args)
    if args.threshold is None:
        # A prompted object is shown however unsure its mask is.
        objects = 0.0 if _is_prompted(args) else BOX if args.text else OBJECTS
        args.threshold = objects if args.panoptic is None else SCENES
    outputs = _plan(args)
    files = None
    if args.panoptic is not None:
        from jaxseg.predict.panoptic_form import PanopticFiles

        files = PanopticFiles(args.panoptic, list(outputs), args.out)
    from jaxseg.predict.result import refuse_not_finite

    detector = _open(args)
    task = _task(args, detector, files)
    found: "dict[Path, Kept]" = {}
    skipped: list[Path] = []
    try:
        with refuse_not_finite(named_weights(args)):
            _detect_and_draw(detector, task, outputs, found, skipped)
    except BaseException:
        # The next run may only replace pictures that are listed.
        if found:
            _write(args, task, found, outputs)
        raise
    _write(args, task, found, outputs)
    print(_summary(args, found, skipped))
    return 1 if skipped else 0


def _is_prompted(args: argparse.Namespace) -> bool:
    return bool(args.points or args.boxes or args.masks)


def _check_words(args: argparse.Namespace) -> None:
    """Tell mistakes about words, and whether masks are read or drawn; takes `--box-threshold` as
    the threshold.

    Raises:
      UserError: options that cannot be meant together.
    """
    given = {
        "--vocab": args.vocab,
        "--sam": args.sam,
        "--nms-iou": args.nms_iou,
        "--box-threshold": args.box_threshold,
        "--text-threshold": args.text_threshold,
    }
    if args.text is None:
        if useless := [option for option, value in given.items() if value is not None]:
            raise UserError(f"{useless[0]} goes with --text, what to look for: add it")
        if args.masks == []:
            raise UserError(
                "--masks without a file draws what --text says: add --text and --sam, or name "
                ".npy files of low-resolution logits"
            )
        return
    check_what(args)
    if args.panoptic is not None:
        raise UserError("--text finds objects and divides no scene: leave --panoptic out")
    if args.masks:
        raise UserError(
            f"with --text, --masks takes no file (got {args.masks[0]}): masks are drawn by --sam"
        )
    if args.points or args.boxes:
        option = "--points" if args.points else "--boxes"
        raise UserError(
            f"{option} prompts Segment Anything and --text Grounding DINO: leave one of them out"
        )
    if args.masks is not None and args.sam is None:
        raise UserError("--masks needs what draws them: --sam, with weights of Segment Anything")
    if args.text_threshold is not None:
        require_share("--text-threshold", args.text_threshold)
    if args.threshold is not None and args.box_threshold is not None:
        raise UserError("with --text, --threshold is --box-threshold: give one of them")
    if args.box_threshold is not None:
        args.threshold = args.box_threshold


def _task(args: argparse.Namespace, detector: "Finder", files: "PanopticFiles | None") -> "Task":
    from jaxseg.predict.tasks import objects_task, scenes_task, words_task
    from jaxseg.predict.words import phrases_of, text_of

    if files is not None:
        return scenes_task(detector, args.threshold, files)
    if args.text is None:
        return objects_task(detector, args.threshold, args.coco)
    words = WORDS if args.text_threshold is None else args.text_threshold
    count = len(phrases_of(detector, args.text))
    return words_task(detector, text_of(args.text), count, args.threshold, words, args.coco)


def _open(args: argparse.Namespace) -> "Finder":
    """What answers for images.

    Raises:
      UserError: no such weights, words or prompts for what takes none, or none for what needs them.
    """
    from jaxseg.checkpoints import from_pretrained
    from jaxseg.models.grounding_dino import GroundingDino
    from jaxseg.models.sam import Sam
    from jaxseg.predict.detector import Detector
    from jaxseg.predict.prompter import Prompter, read_prompts
    from jaxseg.predict.sam_predictor import SamPredictor
    from jaxseg.predict.words import open_words

    prompts = read_prompts(args.points, args.boxes, args.masks or []) if _is_prompted(args) else []
    weights = from_pretrained(args.weights, model=args.model, revision=args.revision)
    if args.text is not None:
        return open_words(args, weights)
    if isinstance(weights.model, Sam):
        if args.panoptic is not None:
            raise UserError(
                f"{args.weights} are weights of Segment Anything, whose masks are of no class and "
                "may overlap: leave --panoptic out"
            )
        if not prompts:
            raise UserError(
                f"{args.weights} are weights of Segment Anything, which needs --points, --boxes or "
                "--masks here and names nothing; `jaxseg masks` segments everything"
            )
        predictor = SamPredictor(weights.model, weights.params, weights.image)
        return Prompter(predictor, prompts, args.batch_size)
    if isinstance(weights.model, GroundingDino):
        raise UserError(
            f"{args.weights} are weights of Grounding DINO, which must be told what to look for: "
            "--text 'cat. dog.', for example"
        )
    if prompts:
        raise UserError(
            f"prompts need weights of Segment Anything; {args.weights} are a "
            f"{type(weights.model).__name__}'s, which finds objects by itself"
        )
    return Detector(
        weights.model, weights.params, weights.classes, weights.image, batch_size=args.batch_size
    )


def _plan(args: argparse.Namespace) -> dict[Path, Path]:
    """Each image and where its picture goes; all mistakes are found here."""
    require_share("--threshold", args.threshold)
    if args.batch_size < 1:
        raise UserError(f"--batch-size must be 1 or more; got {args.batch_size}")
    check_folder("--out", args.out)
    check_file("--coco", args.coco)
    paths = find_images(args.images)
    if args.coco:
        check_image_ids("--coco", paths)
    if args.panoptic:
        check_image_ids("--panoptic", paths)
    outputs = name_outputs(paths, args.out)
    check_targets(outputs, args.out, args.coco)
    return outputs


def _detect_and_draw(
    detector: "Finder", task: "Task", outputs: dict[Path, Path], found: dict, skipped: list
) -> None:
    """Fill `found` and `skipped`, and save the pictures."""
    for path, answer in walk(detector, task.answer, list(outputs)):
        kept = answer
        if not isinstance(answer, UserError):
            kept = _save(task, path, answer, outputs[path])
        if isinstance(kept, UserError):
            skipped.append(path)
            say(f"skipped: {kept}")
        else:
            found[path] = kept


def _save(task: "Task", path: Path, answer: Any, output: Path) -> "Kept | UserError":
    """Save the picture; what is kept of the answer, or why it cannot be saved."""
    # The image is read again: keeping a batch of originals takes gigabytes.
    partial = output.with_name(f".partial{output.suffix}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        task.draw(path, answer).save(partial, quality=92)
        # First what may fail: a picture in its place that no listing names would block a later run.
        kept = task.keep(path, answer)
        partial.replace(output)
    except (OSError, ValueError) as error:
        return UserError(f"cannot save what was found in {path} as {output}: {error}")
    except UserError as error:
        return error
    finally:
        partial.unlink(missing_ok=True)
    return kept


def _write(args: argparse.Namespace, task: "Task", found: dict, outputs: dict) -> None:
    from jaxseg.predict.result import write_json

    before = listed_pictures(args.out)
    records = [
        {"file": str(path), "picture": outputs[path].name, **kept.record}
        for path, kept in found.items()
    ]
    write_json(args.out / LISTING, records)
    remove_pictures(args.out, before - {record["picture"] for record in records}, keep=outputs)
    task.write(found)


def _summary(args: argparse.Namespace, found: dict, skipped: list[Path]) -> str:
    counts = Counter(name for kept in found.values() for name in kept.names)
    words = ", ".join(f"{name} {count}" for name, count in counts.most_common(8)) or "none"
    more = f" and {len(counts) - 8} classes more" if len(counts) > 8 else ""
    images = "1 image" if len(found) == 1 else f"{len(found)} images"
    what = "objects" if args.panoptic is None else "segments"
    alone = "no picture; predictions.json is"
    written = "pictures and predictions.json are" if found else alone
    lines = [
        f"{images}, {counts.total()} {what}: {words}{more}",
        f"{written} in {args.out}",
    ]
    if found and not counts:
        lines.append(
            f"nothing scored {args.threshold:g} or more: a lower --threshold shows the rest"
        )
    if skipped:
        lines.append(f"{len(skipped)} skipped: {', '.join(map(str, skipped))}")
    return "\n".join(lines)

"""What a command line says of Grounding DINO and of the Segment Anything that draws for it."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxseg.errors import UserError, require_share
from jaxseg.predict.grounded import BOX, GroundedDetector

if TYPE_CHECKING:
    from jaxseg.predict.grounded_segmenter import GroundedSegmenter
    from jaxseg.predict.phrases import Text
    from jaxseg.predict.sam_predictor import SamPredictor
    from jaxseg.pretrained import Pretrained


def add_what(group: Any, required: bool = False) -> None:
    """Declare what to look for, and how sure of it the model must be."""
    group.add_argument(
        "--text",
        nargs="+",
        required=required,
        metavar="WORDS",
        help="what to look for: a caption, 'a red car. traffic light.', or several names, each a "
        "word of the shell: person 'stop sign'",
    )
    group.add_argument(
        "--vocab",
        metavar="FILE|FOLDER|HF_ID",
        help="vocab.txt or tokenizer.json, where the weights have none (default: that of "
        "google-bert/bert-base-uncased)",
    )
    group.add_argument(
        "--box-threshold",
        type=float,
        metavar="P",
        help=f"an object's likeliest word is likelier than this (default: {BOX})",
    )
    group.add_argument(
        "--nms-iou",
        type=float,
        metavar="IOU",
        help="of two boxes that overlap by more only the surer one stays, whatever they are called "
        "(default: all stay)",
    )


def add_masks(group: Any) -> None:
    """Declare what draws masks."""
    group.add_argument(
        "--sam", metavar="WEIGHTS", help="weights of Segment Anything, which draws the masks"
    )


def check_what(args: argparse.Namespace) -> None:
    """Refuse numbers that are none, before any work.

    Raises:
      UserError: a threshold or an overlap is no number from 0 to 1.
    """
    for option, value in (("--box-threshold", args.box_threshold), ("--nms-iou", args.nms_iou)):
        if value is not None:
            require_share(option, value)


def text_of(words: Sequence[str]) -> "Text":
    """A caption of one word of the command line, names of several."""
    return words[0] if len(words) == 1 else list(words)


def open_words(
    args: argparse.Namespace, weights: "Pretrained"
) -> "GroundedDetector | GroundedSegmenter":
    """What finds what `--text` says with `--weights`, with masks where there is `--sam`.

    Raises:
      UserError: weights of another model, or no vocabulary.
    """
    from jaxseg.models.grounding_dino import GroundingDino
    from jaxseg.models.sam import Sam
    from jaxseg.predict.grounded_segmenter import GroundedSegmenter
    from jaxseg.text.spans import LENGTH

    if isinstance(weights.model, Sam):
        raise UserError(
            f"--text needs weights of Grounding DINO; {args.weights} are of Segment Anything, "
            "which reads no words: name them with --sam"
        )
    if not isinstance(weights.model, GroundingDino):
        raise UserError(
            f"--text needs weights of Grounding DINO; {args.weights} are a "
            f"{type(weights.model).__name__}'s, which finds its own classes: leave --text out"
        )
    detector = GroundedDetector(
        weights.model,
        weights.params,
        weights.tokenizer(args.vocab),
        weights.image,
        length=weights.text_length or LENGTH,
        batch_size=args.batch_size,
        nms_iou=args.nms_iou,
    )
    if args.sam is None:
        return detector
    return GroundedSegmenter(detector, _open_sam(args.sam))


def _open_sam(name: str) -> "SamPredictor":
    from jaxseg.checkpoints import from_pretrained
    from jaxseg.models.sam import Sam
    from jaxseg.predict.sam_predictor import SamPredictor

    weights = from_pretrained(name)
    if not isinstance(weights.model, Sam):
        raise UserError(
            f"--sam needs weights of Segment Anything; {name} are a "
            f"{type(weights.model).__name__}'s"
        )
    return SamPredictor(weights.model, weights.params, weights.image)


def phrases_of(
    finder: "GroundedDetector | GroundedSegmenter", words: Sequence[str]
) -> tuple[str, ...]:
    """The phrases that a text is read as; the place of each is its label.

    Raises:
      UserError: it names nothing, or what the model cannot read.
    """
    from jaxseg.predict.phrases import plan

    detector = getattr(finder, "detector", finder)
    return plan(text_of(words), detector.tokenizer, detector.length).phrases


def named_weights(args: argparse.Namespace) -> str:
    """All weights of a command, for a message."""
    return str(args.weights) if args.sam is None else f"{args.weights} or {args.sam}"


def identity(name: str | None) -> str | None:
    """What tells weights or a vocabulary from others: a local path as a whole one."""
    if name is None or not Path(name).exists():
        return name
    return str(Path(name).resolve())

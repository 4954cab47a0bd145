"""The same prompts for every image, answered as a detector answers: one mask for each object."""

from collections.abc import Iterable, Sequence
from os import PathLike
from zipfile import BadZipFile

import numpy as np

from jaxseg.errors import UserError
from jaxseg.predict.preprocess import ImageSource, Prepared
from jaxseg.predict.prompts import Prompt
from jaxseg.predict.result import Prediction, warn_not_finite
from jaxseg.predict.sam_predictor import SamPredictor, Segmented

Numbers = Sequence[float]


class Prompter:
    """Segment what a command line prompts for.

    Attributes:
      prompts: one for each object.
      batch_size: images of one call of the model.
    """

    classes = None  # masks have no names

    def __init__(self, predictor: SamPredictor, prompts: Sequence[Prompt], batch_size: int = 1):
        """Take prompts.

        Raises:
          UserError: a prompt cannot be meant of any image.
        """
        self.predictor = predictor
        self.prompts = [prompt.checked(None, predictor.canvas.low) for prompt in prompts]
        self.batch_size = batch_size

    def prepare(self, image: ImageSource) -> Prepared:
        """Read and resize an image, and see whether the prompts can be meant of it.

        Raises:
          UserError: the image cannot be read, or a prompt lies outside of it.
        """
        prepared = self.predictor.prepare(image)
        for prompt in self.prompts:
            try:
                prompt.checked(prepared.size, self.predictor.canvas.low)
            except UserError as error:
                named = f"{image}: " if isinstance(image, str | PathLike) else ""
                raise UserError(f"{named}{error}") from None
        return prepared

    def detect(self, prepared: Iterable[Prepared], threshold: float) -> list[Prediction]:
        """The best mask of each object, of a predicted quality of at least `threshold`; 0 shows
        all, as predictions may lie below it."""
        prepared, found = list(prepared), []
        for start in range(0, len(prepared), self.batch_size):
            some = prepared[start : start + self.batch_size]
            # Rows that fill up a batch repeat an image, so that one program serves all.
            filled = some + some[-1:] * (self.batch_size - len(some))
            images = self.predictor.embed(filled)
            answers = self._segment(images)
            found += [
                _prediction(one, image.size, threshold)
                for one, image in zip(answers[: len(some)], some, strict=True)
            ]
        return found

    def _segment(self, images) -> list[list[Segmented]]:
        """Three masks where a prompt is a single click, which may mean several things."""
        answers: list[list[Segmented | None]] = [[None] * len(self.prompts) for _ in images.sizes]
        for several in (True, False):
            places = [i for i, p in enumerate(self.prompts) if _is_ambiguous(p) == several]
            if not places:
                continue
            sets = [[self.prompts[i] for i in places]] * len(images)
            for row, found in zip(
                answers, self.predictor.segment(images, sets, several), strict=True
            ):
                for i, answer in zip(places, found, strict=True):
                    row[i] = answer
        return answers


def _is_ambiguous(prompt: Prompt) -> bool:
    points = 0 if prompt.points is None else len(prompt.points)
    return points == 1 and prompt.box is None and prompt.mask is None


def _prediction(answers: Sequence[Segmented], size, threshold: float) -> Prediction:
    best = [int(answer.iou.argmax()) for answer in answers]
    scores = np.asarray([a.iou[i] for a, i in zip(answers, best, strict=True)], np.float32)
    masks = np.stack([a.masks[i] for a, i in zip(answers, best, strict=True)])
    finite = np.isfinite(scores)
    warn_not_finite(finite)
    keep = np.flatnonzero(((scores >= threshold) | (threshold == 0)) & finite)
    keep = keep[np.argsort(-scores[keep], kind="stable")]
    return Prediction(
        boxes=np.stack([_box(mask) for mask in masks])[keep],
        scores=scores[keep],
        labels=keep.astype(np.int32),
        names=tuple(f"object {i + 1}" for i in keep),
        size=size,
        masks=masks[keep],
    )


def _box(mask: np.ndarray) -> np.ndarray:
    """The borders of a mask, float32 xyxy; zeros for an empty one."""
    sides = []
    for axis in (0, 1):
        (hit,) = np.nonzero(mask.any(axis))
        sides.append((hit[0], hit[-1] + 1) if len(hit) else (0, 0))
    (left, right), (top, bottom) = sides
    return np.asarray([left, top, right, bottom], np.float32)


def read_prompts(points: Sequence[str], boxes: Sequence[str], masks: Sequence[str]) -> list[Prompt]:
    """Prompts as a command line says them.

    Args:
      points: "x,y" in the foreground or "x,y,0" in the background, all of one object.
      boxes: "x0,y0,x1,y1", each of an object; a single one goes with the points.
      masks: `.npy` files of low-resolution logits, each of an object; a single one goes with
        points and box.

    Raises:
      UserError: a word that is none of these, or several objects that points could belong to.
    """
    clicks = [_numbers("--points", word, (2, 3)) for word in points]
    frames = [_numbers("--boxes", word, (4,)) for word in boxes]
    logits = [_read_mask(name) for name in masks]
    kinds = [len(frames), len(logits)]
    if clicks and max(kinds) > 1:
        raise UserError(
            "points are of one object: give at most one box or mask beside them, or several boxes "
            "without points"
        )
    if min(kinds) > 0 and len(frames) != len(logits):
        raise UserError(
            f"give as many masks as boxes, or none; got {len(logits)} and {len(frames)}"
        )
    count = max(*kinds, 1)
    labels = [click[2] if len(click) == 3 else 1 for click in clicks]
    return [
        Prompt(
            np.asarray([click[:2] for click in clicks]) if clicks else None,
            np.asarray(labels) if clicks else None,
            frames[i] if frames else None,
            logits[i] if logits else None,
        )
        for i in range(count)
    ]


def _numbers(option: str, word: str, counts: tuple[int, ...]) -> np.ndarray:
    try:
        found = np.asarray([float(part) for part in word.split(",")])
    except ValueError:
        found = np.zeros(0)
    if len(found) not in counts:
        form = "X,Y or X,Y,0" if option == "--points" else "X0,Y0,X1,Y1"
        raise UserError(f"{option} takes {form} in pixels; got {word!r}")
    return found


def _read_mask(name: str) -> np.ndarray:
    try:
        return np.load(name, allow_pickle=False)
    except OSError as error:
        why = error.strerror or error
    except (EOFError, ValueError, BadZipFile):
        why = "it is no array that numpy.save wrote"
    raise UserError(f"--masks takes .npy files of low-resolution logits; cannot read {name}: {why}")

"""Segment everything in an image (arXiv 2304.02643, section B)."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from os import PathLike
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxseg.data.segmentation import run_lengths
from jaxseg.models.sam import Sam
from jaxseg.ops.masks import masks_to_boxes, stability_score
from jaxseg.ops.nms import nms
from jaxseg.predict.automatic import Found, Settings, settings
from jaxseg.predict.crops import Crop, make_crops, near_crop_edge
from jaxseg.predict.preprocess import ImageSource, Size, load_image
from jaxseg.predict.regions import remove_small_regions
from jaxseg.predict.sam_predictor import THRESHOLD, SamPredictor
from jaxseg.pretrained import ImageConfig
from jaxseg.structures import FOREGROUND, Prompts
from jaxseg.typing import Array, PyTree

# Masks at the image's size are computed on canvases of a multiple of this, for few programs.
MULTIPLE = 128
# Masks that are drawn at a time.
AT_ONCE = 16


class Frame(NamedTuple):
    """A crop's own pixels on a canvas that several crops share.

    Attributes:
      rows, columns: what brings logits to the crop's size; zero beyond it.
      size: (h, w) of the crop.
      box, image: xyxy of the crop and of the whole image, in it.
    """

    rows: Array
    columns: Array
    size: Array
    box: Array
    image: Array


class Candidates(NamedTuple):
    """Answers to the points of a crop, those to one point after the other (n of them).

    Attributes:
      logits: (n, h, w), of low resolution.
      iou, stability: (n,).
      boxes: (n, 4) in the crop, xyxy.
      keep: (n,), whether it is one of the crop's masks.
    """

    logits: Array
    iou: Array
    stability: Array
    boxes: Array
    keep: Array


class AutomaticMaskGenerator:
    """Ask a model at every point of a grid, and keep what it is sure of.

        generator = AutomaticMaskGenerator.from_pretrained("facebook/sam-vit-base")
        for record in generator.generate("truck.jpg"):
            print(record["area"], record["predicted_iou"])

    All that needs whole masks happens on the device, one mask at a time; what stays is kept as
    run lengths.

    Attributes:
      predictor: of the model.
      settings: see `automatic.Settings`.
    """

    def __init__(
        self,
        model: Sam,
        params: PyTree,
        image: ImageConfig | None = None,
        *,
        preset: str = "release",
        precision: str = "highest",
        **changes: Any,
    ):
        """Wrap a model.

        Args:
          image: mean and standard deviation of its images; None is the original's.
          preset: "release", or "sa1b" for the settings that made SA-1B.
          precision: of matrix products (`jax.default_matmul_precision`).
          changes: other settings, as `points_per_side=16`.

        Raises:
          UserError: no Segment Anything model, or settings that do not fit together.
        """
        self.settings: Settings = settings(preset, **changes)
        self.predictor = SamPredictor(model, params, image, precision=precision)
        self._precision = precision
        self._ask = jax.jit(partial(_ask, model, self.settings))
        self._draw = jax.jit(_draw)
        self._suppress = jax.jit(nms, static_argnames="threshold")

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | PathLike,
        *,
        preset: str = "release",
        precision: str = "highest",
        model: str | None = None,
        revision: str | None = None,
        local_files_only: bool | None = None,
        **changes: Any,
    ) -> "AutomaticMaskGenerator":
        """Load weights as `SamPredictor.from_pretrained` does.

        Args:
          preset, precision, changes: of the constructor.

        Raises:
          UserError: there are no such weights, or settings that do not fit together.
        """
        predictor = SamPredictor.from_pretrained(
            name_or_path, model=model, revision=revision, local_files_only=local_files_only
        )
        return cls(
            predictor.model, predictor.params, predictor.image, preset=preset,
            precision=precision, **changes,
        )  # fmt: skip

    def generate(self, image: ImageSource) -> list[dict[str, Any]]:
        """The masks of an image, as the release's records.

        A record holds `segmentation` (see `Settings.output_mode`), `area` in pixels, `bbox` as
        (x, y, w, h) between the first and the last column and row, `predicted_iou`,
        `stability_score`, the one point of `point_coords` and `crop_box` as (x, y, w, h).

        Args:
          image: see `preprocess.load_image`.

        Raises:
          UserError: the image cannot be read.
        """
        pixels = load_image(image)
        size = pixels.shape[:2]
        return [found.record(size, self.settings.output_mode) for found in self.find(pixels)]

    def find(self, pixels: np.ndarray) -> list[Found]:
        """The masks of an image (h, w, 3), uint8."""
        size = pixels.shape[:2]
        crops = make_crops(size, self.settings.crop_n_layers, self.settings.crop_overlap_ratio)
        found = [mask for crop in crops for mask in self._of_crop(pixels, crop)]
        if len(crops) > 1:
            # A mask of a smaller crop was seen larger.
            scores = [1 / mask.crop.area for mask in found]
            found = self._best(found, scores, self.settings.crop_nms_thresh)
        if self.settings.min_mask_region_area > 0:
            found = self._without_small_regions(found, size)
        return found

    def _of_crop(self, pixels: np.ndarray, crop: Crop) -> list[Found]:
        """Masks of one crop, the best first."""
        height, width = crop.size
        places = self.settings.grids()[crop.layer] * (width, height)
        part = np.ascontiguousarray(crop.cut(pixels))
        frame = self._frame(crop, pixels.shape[:2])
        batches, real = _batches(
            self.predictor.canvas.points(places, crop.size), self.settings.points_per_batch
        )
        embedded = self.predictor.encode([part])
        with jax.default_matmul_precision(self._precision):
            answers = self._ask(self.predictor.params, embedded.maps, batches, real, frame)
            iou, stability, boxes, keep = jax.device_get(answers[1:])
            chosen = np.flatnonzero(keep)
            chosen = chosen[np.argsort(-iou[chosen], kind="stable")]
            masks = list(self._drawn(answers.logits, chosen, frame, crop.size))
        asked = np.repeat(places, len(keep) // batches[..., 0].size, 0)
        size = pixels.shape[:2]
        return [
            Found(
                run_lengths(crop.uncrop_mask(mask, size)),
                crop.uncrop(boxes[i]),
                float(iou[i]),
                float(stability[i]),
                crop.uncrop(asked[i]),
                crop,
            )
            for i, mask in zip(chosen, masks, strict=True)
        ]

    def _frame(self, crop: Crop, size: Size) -> Frame:
        canvas = self.predictor.canvas
        low = (canvas.low,) * 2
        rows, columns = (
            np.pad(matrix, ((0, -len(matrix) % MULTIPLE), (0, 0)))
            for matrix in canvas.matrices(crop.size, low)
        )
        height, width = size
        box = np.asarray(crop.box, np.float32)
        whole = np.asarray((0, 0, width, height), np.float32)
        return Frame(rows, columns, np.asarray(crop.size, np.int32), box, whole)

    def _drawn(self, logits, chosen, frame: Frame, size: Size) -> Iterator[np.ndarray]:
        height, width = size
        for start in range(0, len(chosen), AT_ONCE):
            some = chosen[start : start + AT_ONCE]
            index = np.resize(some, AT_ONCE)  # repeats fill up the last
            masks = np.asarray(self._draw(logits, index, frame))
            yield from masks[: len(some), :height, :width]

    def _best(
        self, found: Sequence[Found], scores: Sequence[float], threshold: float
    ) -> list[Found]:
        """What boxes of better scores leave over, best first."""
        if not found:
            return []
        count = 1 << (len(found) - 1).bit_length()  # few programs for all counts
        boxes = np.zeros((count, 4), np.float32)
        padded = np.full(count, -np.inf, np.float32)
        boxes[: len(found)], padded[: len(found)] = [mask.box for mask in found], scores
        keep = np.asarray(self._suppress(boxes, padded, threshold=threshold))
        order = np.argsort(-padded, kind="stable")
        return [found[i] for i in order if keep[i]]

    def _without_small_regions(self, found: list[Found], size: Size) -> list[Found]:
        """Masks without small holes and islands; what then overlaps goes, changed ones first."""
        area = self.settings.min_mask_region_area
        cleaned, scores = [], []
        for one in found:
            mask, filled = remove_small_regions(one.mask(size), area, "holes")
            mask, dropped = remove_small_regions(mask, area, "islands")
            changed = filled or dropped
            if self.settings.drop_small_masks and dropped and mask.sum() < area:
                continue
            if changed:
                box = np.asarray(masks_to_boxes(jnp.asarray(mask)))
                one = replace(one, runs=run_lengths(mask), box=box)
            cleaned.append(one)
            scores.append(float(not changed))
        threshold = max(self.settings.box_nms_thresh, self.settings.crop_nms_thresh)
        return self._best(cleaned, scores, threshold)


def _batches(points: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Points as (batch, size, 2), and which are real."""
    size = min(size, len(points))
    missing = -len(points) % size
    real = np.arange(len(points) + missing) < len(points)
    padded = np.pad(points, ((0, missing), (0, 0))).astype(np.float32)
    return padded.reshape(-1, size, 2), real.reshape(-1, size)


def _ask(model: Sam, settings: Settings, params, maps, batches, real, frame: Frame) -> Candidates:
    """All of a crop's points, and which of the answers are its masks."""

    def ask(batch):
        points, real = batch
        labels = jnp.full((1, len(points), 1), FOREGROUND)
        prompts = Prompts(points[None, :, None], labels)
        masks = model.apply({"params": params}, maps, prompts, method="decode").multiple
        logits = masks.logits.reshape(-1, *masks.logits.shape[-2:])
        iou, keep = masks.iou.reshape(-1), jnp.repeat(real, masks.iou.shape[-1])
        if settings.pred_iou_thresh > 0:
            keep &= iou > settings.pred_iou_thresh
        measured = lax.map(partial(_measure, settings, frame), (logits, keep))
        return logits, iou, keep, *measured

    answers = lax.map(ask, (batches, real))
    logits, iou, keep, stability, area, boxes = (x.reshape(-1, *x.shape[2:]) for x in answers)
    if settings.stability_score_thresh > 0:
        keep &= stability >= settings.stability_score_thresh
    if settings.max_mask_coverage is not None:
        keep &= area < settings.max_mask_coverage * frame.image[2] * frame.image[3]
    keep &= ~near_crop_edge(boxes, frame.box, frame.image)
    keep = nms(boxes.astype(jnp.float32), jnp.where(keep, iou, -jnp.inf), settings.box_nms_thresh)
    return Candidates(logits, iou, stability, boxes, keep)


def _measure(settings: Settings, frame: Frame, candidate):
    """Stability, pixels and box of a mask; zeros for what is dropped already."""
    logits, wanted = candidate

    def measure(logits):
        whole = _at_own_size(logits, frame)
        stability = stability_score(whole, THRESHOLD, settings.stability_score_offset)
        mask = whole > THRESHOLD
        return stability, mask.sum(dtype=jnp.int32), masks_to_boxes(mask)

    def skip(logits):
        return jnp.float32(0), jnp.int32(0), jnp.zeros(4, jnp.int32)

    return lax.cond(wanted, measure, skip, logits)


def _at_own_size(logits, frame: Frame):
    """Logits at the crop's size, minus infinity beyond it."""
    whole = frame.rows @ logits @ frame.columns.T
    rows, columns = (jnp.arange(n) < size for n, size in zip(whole.shape, frame.size, strict=True))
    return jnp.where(rows[:, None] & columns, whole, -jnp.inf)


def _draw(logits, index, frame: Frame):
    """Some of the masks at the crop's size."""
    return lax.map(lambda i: _at_own_size(logits[i], frame) > THRESHOLD, index)

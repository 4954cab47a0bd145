"""How automatic masks are made (arXiv 2304.02643, section B), and how one is told."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal, get_args

import numpy as np

from jaxseg.data.segmentation import compressed, mask_of_runs
from jaxseg.errors import UserError
from jaxseg.predict.crops import Crop, point_grids
from jaxseg.predict.preprocess import Size

OutputMode = Literal["binary_mask", "uncompressed_rle", "coco_rle"]


@dataclass(frozen=True)
class Settings:
    """The defaults are the release's.

    Attributes:
      points_per_side: of the grid on the whole image; None where `point_grids` are given.
      points_per_batch: prompts that the decoder answers at a time.
      pred_iou_thresh: masks of a higher predicted quality stay; 0 or less keeps all.
      stability_score_thresh: masks of at least this stability stay; 0 or less keeps all.
      stability_score_offset: by how much logits are cut off higher and lower for it.
      box_nms_thresh: overlap of boxes beyond which the worse of two masks of a crop goes.
      crop_n_layers: layers of crops beside the whole image; layer i has (2^i)².
      crop_nms_thresh: overlap beyond which the mask of the larger of two crops goes.
      crop_overlap_ratio: of the short side, that crops of the first layer share.
      crop_n_points_downscale_factor: how many times fewer points to a side each layer has.
      point_grids: (n, 2) points in [0, 1] for each layer.
      min_mask_region_area: pixels; smaller holes are filled and smaller islands dropped.
      output_mode: bool arrays, or COCO's run lengths as a list or as its string.
      max_mask_coverage: share of the image; masks that cover it or more are dropped.
      drop_small_masks: drop masks all of whose islands are small, instead of keeping the largest.
    """

    points_per_side: int | None = 32
    points_per_batch: int = 64
    pred_iou_thresh: float = 0.88
    stability_score_thresh: float = 0.95
    stability_score_offset: float = 1.0
    box_nms_thresh: float = 0.7
    crop_n_layers: int = 0
    crop_nms_thresh: float = 0.7
    crop_overlap_ratio: float = 512 / 1500
    crop_n_points_downscale_factor: int = 1
    point_grids: Sequence[np.ndarray] | None = None
    min_mask_region_area: int = 0
    output_mode: OutputMode = "binary_mask"
    max_mask_coverage: float | None = None
    drop_small_masks: bool = False

    def __post_init__(self):
        for name in ("points_per_batch", "crop_n_points_downscale_factor"):
            _require_whole(name, getattr(self, name), 1)
        _require_whole("crop_n_layers", self.crop_n_layers, 0, 8)
        _require_whole("min_mask_region_area", self.min_mask_region_area, 0)
        if self.points_per_side is not None:
            _require_whole("points_per_side", self.points_per_side, 1, 1000)
        for name in ("pred_iou_thresh", "stability_score_thresh", "stability_score_offset"):
            _require_number(name, getattr(self, name))
        for name in ("box_nms_thresh", "crop_nms_thresh", "crop_overlap_ratio"):
            _require_number(name, getattr(self, name), (0, 1))
        if not isinstance(self.drop_small_masks, bool):
            raise UserError(
                f"drop_small_masks must be true or false; got {self.drop_small_masks!r}"
            )
        if self.max_mask_coverage is not None:
            _require_number("max_mask_coverage", self.max_mask_coverage, (0, 1))
        if (self.points_per_side is None) == (self.point_grids is None):
            raise UserError(
                "give either points_per_side or point_grids; got "
                f"{'neither' if self.point_grids is None else 'both'} "
                "(points_per_side=None goes with point_grids)"
            )
        if self.output_mode not in get_args(OutputMode):
            raise UserError(
                f"output_mode must be one of {', '.join(get_args(OutputMode))}; got "
                f"{self.output_mode!r}"
            )
        grids = self.grids()
        if len(grids) != self.crop_n_layers + 1:
            raise UserError(
                f"crop_n_layers={self.crop_n_layers} needs {self.crop_n_layers + 1} point_grids, "
                f"one for the whole image and one for each layer; got {len(grids)}"
            )
        for layer, grid in enumerate(grids):
            if np.ndim(grid) != 2 or np.shape(grid)[1] != 2 or len(grid) == 0:
                raise UserError(
                    f"a grid must be points (n, 2) in [0, 1]; that of layer {layer} is "
                    f"{np.shape(grid)}: give more points_per_side, or fewer layers"
                )
            if not ((np.asarray(grid) >= 0) & (np.asarray(grid) <= 1)).all():
                raise UserError(f"points of a grid must lie in [0, 1]; layer {layer}'s do not")

    def grids(self) -> list[np.ndarray]:
        """Points (n, 2) in [0, 1] for each layer."""
        if self.point_grids is not None:
            return [np.asarray(grid, np.float64) for grid in self.point_grids]
        downscale = self.crop_n_points_downscale_factor
        return point_grids(self.points_per_side, self.crop_n_layers, downscale)


def _require_whole(name: str, value: Any, least: int, most: int | None = None) -> None:
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        limits = f"{least} or more" if most is None else f"{least} to {most}"
        raise UserError(f"{name} must be a whole number, {limits}; got {value!r}")


def _require_number(name: str, value: Any, limits: tuple[float, float] | None = None) -> None:
    if not isinstance(value, Real) or isinstance(value, bool) or not np.isfinite(value):
        raise UserError(f"{name} must be a number; got {value!r}")
    if limits is not None and not limits[0] <= value <= limits[1]:
        raise UserError(f"{name} must lie in [{limits[0]}, {limits[1]}]; got {value}")


# SA-1B's masks came from the whole image, 2 × 2 and 4 × 4 crops.
PRESETS = {
    "release": Settings(),
    "sa1b": Settings(
        crop_n_layers=2,
        crop_n_points_downscale_factor=2,
        min_mask_region_area=100,
        max_mask_coverage=0.95,
        drop_small_masks=True,
    ),
}


def settings(preset: str = "release", /, **changes: Any) -> Settings:
    """One of `PRESETS`, with changes.

    Raises:
      UserError: no such preset or setting, or settings that do not fit together.
    """
    if preset not in PRESETS:
        raise UserError(f"no preset {preset!r}; there are {', '.join(PRESETS)}")
    names = [field.name for field in dataclasses.fields(Settings)]
    if unknown := sorted(set(changes) - set(names)):
        raise UserError(f"no setting {unknown[0]!r}; there are {', '.join(names)}")
    return dataclasses.replace(PRESETS[preset], **changes)


@dataclass(frozen=True)
class Found:
    """A mask.

    Attributes:
      runs: of the mask in the whole image, as `data.segmentation.run_lengths`.
      box: xyxy, first and last column and row.
      iou, stability: how good it was judged.
      point: (x, y) that was asked at.
      crop: where.
    """

    runs: np.ndarray
    box: np.ndarray
    iou: float
    stability: float
    point: np.ndarray
    crop: Crop

    @property
    def area(self) -> int:
        """Pixels."""
        return int(self.runs[1::2].sum())

    def mask(self, size: Size) -> np.ndarray:
        """bool, in an image of (h, w)."""
        return mask_of_runs(self.runs, size)

    def record(self, size: Size, mode: OutputMode) -> dict[str, Any]:
        """As the release tells a mask of an image of (h, w)."""
        left, top, right, bottom = (int(side) for side in self.box)
        crop_height, crop_width = self.crop.size
        return {
            "segmentation": _segmentation(self.runs, size, mode),
            "area": self.area,
            "bbox": [left, top, right - left, bottom - top],
            "predicted_iou": self.iou,
            "point_coords": [[float(x) for x in self.point]],
            "stability_score": self.stability,
            "crop_box": [*self.crop.box[:2], crop_width, crop_height],
        }


def _segmentation(runs: np.ndarray, size: Size, mode: OutputMode):
    if mode == "binary_mask":
        return mask_of_runs(runs, size)
    counts = compressed(runs) if mode == "coco_rle" else runs.tolist()
    return {"size": list(size), "counts": counts}

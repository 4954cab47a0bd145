"""Hugging Face's `preprocessor_config.json`, read and written.

What `ImageConfig` cannot say is noted and never keeps the weights from being loaded.
"""

import math
from collections.abc import Mapping
from typing import Any

from jaxseg.errors import UserError
from jaxseg.pretrained import ImageConfig

FILE = "preprocessor_config.json"
BILINEAR = 2  # PIL's number


def read_preprocessor(
    config: Mapping[str, Any], side: int | None = None
) -> tuple[ImageConfig, list[str]]:
    """How to prepare images, and a note for whatever is done otherwise here.

    A null stands for what transformers assumes.

    Args:
      side: of the square that the model's images lie on, if it has one: no other size will do.

    Raises:
      UserError: a value that is damaged, by the name of its field.
    """
    if not isinstance(config, Mapping):
        raise UserError(f"{FILE} must hold a JSON object; got {str(config)[:80]}")
    config = {name: value for name, value in config.items() if value is not None}
    notes: list[str] = []
    mean, std = _statistics(config)
    short, long = _sides(config, notes) if side is None else (side, side)
    if not config.get("do_resize", True):
        notes.append(f"resizing to {short} pixels ({FILE} says do_resize=false)")
    if config.get("resample", BILINEAR) != BILINEAR:
        notes.append(f"bilinear resizing ({FILE} says resample={config['resample']})")
    return ImageConfig(mean, std, short, long), notes


def _statistics(config) -> tuple[tuple, tuple]:
    """Mean and standard deviation of RGB in [0, 1], whatever the pixels are multiplied by."""
    default = ImageConfig()
    mean, std = (0.0,) * 3, (1.0,) * 3
    if config.get("do_normalize", True):
        mean = _numbers("image_mean", config.get("image_mean", default.mean))
        std = _numbers("image_std", config.get("image_std", default.std), positive=True)
    factor = 1.0
    if config.get("do_rescale", True):
        factor = config.get("rescale_factor", 1 / 255)
        (factor,) = _numbers("rescale_factor", [factor], count=1, positive=True)
    if math.isclose(factor * 255, 1, rel_tol=1e-6):  # as rounded when it was written
        return mean, std
    return tuple(m / (255 * factor) for m in mean), tuple(s / (255 * factor) for s in std)


def _numbers(field: str, values, count: int = 3, positive: bool = False) -> tuple[float, ...]:
    good = isinstance(values, list | tuple) and len(values) == count
    if not good or not all(_is_number(x) and (x > 0 or not positive) for x in values):
        kind = "numbers above 0" if positive else "numbers"
        raise UserError(f"{FILE}: {field} must be {count} {kind}; got {values!r}")
    return tuple(values)


def _is_number(x) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x)


def _sides(config, notes: list[str]) -> tuple[int, int]:
    """The short and the long side, from each of the forms that transformers writes."""
    default = ImageConfig()
    size = config.get("size", default.short_side)
    if _is_number(size):
        size = {"shortest_edge": size}
    if not isinstance(size, Mapping):
        raise UserError(f"{FILE}: size must be a number or an object; got {size!r}")
    size = {name: value for name, value in size.items() if value is not None}
    for pair in (("max_height", "max_width"), ("height", "width")):
        if set(pair) <= set(size):
            short, long = sorted(_side(name, size[name]) for name in pair)
            if pair[0] == "height" or short != long:
                notes.append(f"sides of at most {short} and {long} pixels ({FILE}: size={size})")
            return short, long
    if "shortest_edge" not in size:
        notes.append(f"sides of {default.short_side} to {default.long_side} ({FILE}: size={size})")
        return default.short_side, default.long_side
    long = size.get("longest_edge", config.get("max_size"))
    if long is None:
        long = default.long_side
        notes.append(f"a long side of at most {long} pixels ({FILE} does not limit it)")
    return _side("shortest_edge", size["shortest_edge"]), _side("longest_edge", long)


def _side(name: str, value) -> int:
    if not _is_number(value) or value < 1 or value != int(value):
        raise UserError(f"{FILE}: size's {name} must be a whole number above 0; got {value!r}")
    return int(value)


def write_preprocessor(image: ImageConfig, processor: str = "DetrImageProcessor") -> dict[str, Any]:
    """The `preprocessor_config.json` of an `ImageConfig`, for a class of transformers."""
    return {
        "image_processor_type": processor,
        "format": "coco_detection",
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "do_pad": True,
        "rescale_factor": 1 / 255,
        "resample": 2,
        "image_mean": list(image.mean),
        "image_std": list(image.std),
        "size": {"shortest_edge": image.short_side, "longest_edge": image.long_side},
    }

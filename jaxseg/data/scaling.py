"""All sizes of a recipe times one number: smaller images for small devices."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from jaxseg.data.batching import Buckets, pad_to_multiple
from jaxseg.data.transforms import Transform
from jaxseg.errors import UserError


def scaled(transform: Transform, factor: float) -> Transform:
    """A transform with every length in pixels times `factor`, in its parts too.

    Lengths are the dataclasses' fields that `transforms.pixels` declares.

    Raises:
      UserError: a transform that is no dataclass.
    """
    if not dataclasses.is_dataclass(transform):
        raise UserError(
            f"data.scale cannot change {type(transform).__name__}, which is no dataclass with "
            "sizes declared by jaxseg.data.transforms.pixels(): set its sizes in the config file"
        )
    changed = {
        field.name: _changed(field, getattr(transform, field.name), factor)
        for field in dataclasses.fields(transform)
    }
    return dataclasses.replace(transform, **changed)


def scaled_buckets(buckets: Sequence[Sequence[int]], factor: float, multiple: int) -> Buckets:
    """Canvases that hold what lay on `buckets` before it was scaled."""
    # Not 353 for 640 * 0.55, which is 352.00000000000006.
    sides = [[math.ceil(side * factor - 1e-6) for side in bucket] for bucket in buckets]
    return tuple(pad_to_multiple((h, w), multiple) for h, w in sides)


def times(length: int, factor: float) -> int:
    """A length in whole pixels, at least 1."""
    return max(1, round(length * factor))


def _changed(field: dataclasses.Field, value: Any, factor: float) -> Any:
    if isinstance(value, tuple):
        return tuple(_changed(field, item, factor) for item in value)
    if "pixels" in field.metadata:
        return None if value is None else times(value, factor)
    return scaled(value, factor) if hasattr(value, "draw") else value

"""What a step loaded, on its way from a worker process."""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxseg.data.dataset import Example
from jaxseg.data.epochs import EMPTY
from jaxseg.data.prompts import Prompt
from jaxseg.structures import Batch


class Row(NamedTuple):
    """An image of a batch.

    Attributes:
      index: its position in the data set.
      prompt: what it is asked for.
      named: bool (n, s), the tokens that name each object.
      unnamed: objects that the prompt had no room for.
    """

    example: Example | None = None
    index: int = EMPTY
    prompt: Prompt | None = None
    named: np.ndarray | None = None
    unnamed: int = 0


class Loaded(NamedTuple):
    """A step's batch and what there is to say about it.

    Attributes:
      dropped: (file name, objects) of images with more objects than slots.
      unnamed: the same of objects that a caption had no room for.
      skipped: messages about images that could not be read.
      error: why there is no batch; without a batch and without an error, the steps have ended.
      bits: what `pack_masks` took out of the batch: many are loaded ahead, and masks are large.
    """

    batch: Batch | None
    dropped: list[tuple[str, int]]
    skipped: list[str]
    error: str | None = None
    bits: np.ndarray | None = None
    unnamed: Sequence[tuple[str, int]] = ()


END = Loaded(None, [], [])


def warn_dropped(image: tuple[str, int], slots: int) -> None:
    """Say that there were more objects than slots."""
    name, count = image
    warnings.warn(
        f"{name} has {count} more objects than the {slots} slots; the rest are no targets. Raise "
        "max_targets if this is common (`Loader.dropped` counts them)",
        stacklevel=4,
    )


def warn_unnamed(image: tuple[str, int]) -> None:
    """Say that a caption could not name all objects."""
    name, count = image
    warnings.warn(
        f"the caption of {name} has no room for the names of {count} of its objects; they are no "
        "targets. Raise prompts.length if this is common (`Loader.unnamed` counts them)",
        stacklevel=4,
    )

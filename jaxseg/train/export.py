"""The weights that a run leaves behind, in folders that `from_pretrained` reads."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxseg.checkpoints import save_pretrained
from jaxseg.data.classes import Classes
from jaxseg.native import encode_kwargs
from jaxseg.pretrained import ImageConfig
from jaxseg.train.state import TrainState

FOLDERS = ("last", "best")


@dataclass(frozen=True)
class Export:
    """What is written beside the weights.

    Attributes:
      name, kwargs: of the model's builder.
      classes: of its labels.
      image: how images are prepared for it.
      vocabulary: file of the tokeniser of its captions, if it reads any.
      text_length: tokens of these captions.
    """

    name: str
    kwargs: dict[str, Any]
    classes: Classes
    image: ImageConfig
    vocabulary: str | None = None
    text_length: int | None = None

    def write(self, state: TrainState, directory: Path) -> None:
        """Write the averaged weights; every process must call it."""
        params = jax.tree.map(_on_host, state.averaged())
        if jax.process_index() == 0:
            save_pretrained(
                directory,
                self.name,
                self.kwargs,
                params,
                classes=self.classes,
                image=self.image,
                vocabulary=self.vocabulary,
                text_length=self.text_length,
            )

    def to_json(self) -> dict[str, Any]:
        """Plain data, for `from_json`."""
        return {
            "name": self.name,
            "kwargs": encode_kwargs(self.kwargs),
            "classes": self.classes.to_json(),
            "image": asdict(self.image),
            "vocabulary": self.vocabulary,
            "text_length": self.text_length,
        }

    @classmethod
    def from_json(cls, record: Mapping) -> Self:
        """Raises KeyError or TypeError where the record is no `to_json`'s."""
        classes, image = Classes.from_json(record["classes"]), ImageConfig(**record["image"])
        told = (record.get("vocabulary"), record.get("text_length"))
        return cls(record["name"], dict(record["kwargs"]), classes, image, *told)


def _on_host(x: jax.Array) -> np.ndarray:
    if x.is_fully_addressable:
        return np.asarray(x)
    return np.asarray(multihost_utils.process_allgather(x, tiled=True))

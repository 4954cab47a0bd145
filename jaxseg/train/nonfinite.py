"""The error of a run whose loss or gradients are no numbers any more."""

import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxseg.errors import UserError
from jaxseg.train.step import Report


class NonFiniteError(UserError):
    """The loss or a gradient became NaN or infinite; the last checkpoint stands."""


def nonfinite_error(
    step: int,
    report: Report,
    index: np.ndarray,
    *,
    trainable: Sequence[str],
    image_ids: Sequence,
    saved: int | None,
) -> NonFiniteError:
    """What to raise for a step's report; every process must ask for it.

    Args:
      index: of this process's images.
      trainable: paths in the order of the report.
      image_ids: of the data set.
      saved: the newest checkpoint.
    """
    losses = {name: value for name, value in report.metrics.items() if name != "grad_norm"}
    terms = [name for name, value in losses.items() if not math.isfinite(value)]
    finite = report.finite_gradients.tolist()
    gradients = [path for path, ok in zip(trainable, finite, strict=True) if not ok]
    ids = [image_ids[i] for i in _everywhere(index)]
    stands = "No checkpoint was saved yet" if saved is None else f"Checkpoint {saved} stands"
    return NonFiniteError(
        f"training stopped at step {step} because something is not finite: "
        f"{_some('losses', terms)}; {_some('gradients of', gradients)}. Images of the batch: "
        f"{', '.join(map(repr, ids))}. {stands}. Look at these images with "
        "`jaxseg doctor`, lower optimizer.learning_rate, or compute in float32"
    )


def _everywhere(index: np.ndarray) -> list[int]:
    """The indices of all processes, each once: some may hold the same rows."""
    if jax.process_count() > 1:
        index = multihost_utils.process_allgather(index, tiled=True)
    return list(dict.fromkeys(np.asarray(index).tolist()))


def _some(what: str, names: list[str], limit: int = 8) -> str:
    if not names:
        return f"no {what.split()[0]}"
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"{what} {', '.join(names[:limit])}{more}"

"""A small Segment Anything with random weights whose masks differ from place to place."""

import numpy as np

from jaxseg.checkpoints import save_pretrained
from jaxseg.models import build
from jaxseg.params import abstract_params, flatten, unflatten
from jaxseg.train.describe import describe

FIELDS = {
    "encoder_width": 32, "encoder_depth": 2, "encoder_heads": 2, "global_blocks": (1,),
    "image_size": 128, "window": 5, "width": 32, "num_heads": 4, "feedforward": 48,
    "iou_width": 32,
}  # fmt: skip


def small_sam(**fields):
    """Model and parameters, drawn without compiling `model.init`."""
    model = build("sam.tiny", **FIELDS | fields)
    rng = np.random.default_rng(5)

    def leaf(path: str, shape: tuple) -> np.ndarray:
        if path.endswith(("scale", "bias")):
            return np.full(shape, path.endswith("scale"), np.float32)
        table = any(word in path.rpartition("/")[2] for word in ("embed", "token", "matrix"))
        deviation = 1.0 if table else 1.5 * np.prod(shape[:-1]) ** -0.5
        return rng.normal(0, deviation, shape).astype(np.float32)

    flat = {path: leaf(path, x.shape) for path, x in flatten(abstract_params(model)).items()}
    return model, unflatten(flat)


def save_small(folder):
    """A folder of these weights."""
    model, params = small_sam()
    name, kwargs = describe(model)
    save_pretrained(folder, name, kwargs, params, probe=False)
    return folder

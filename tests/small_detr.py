"""A DETR small enough for tests, with weights drawn without running its initialisers."""

import numpy as np

from jaxseg.models import build
from jaxseg.params import abstract_params, flatten, unflatten

FIELDS = {
    "depth": 18,
    "width": 16,
    "num_heads": 2,
    "feedforward": 24,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "num_queries": 7,
    "num_classes": 3,
}


def small(**fields):
    """The model; `fields` replace those above."""
    return build("detr.r50", **FIELDS | fields)


def drawn(model, seed=0):
    """Random numpy parameters that keep activations near one."""
    generator = np.random.default_rng(seed)

    def draw(path, shape):
        if path.endswith("/var"):
            return generator.uniform(0.1, 2.0, shape)
        if path.endswith("/kernel"):
            return generator.standard_normal(shape) / np.sqrt(np.prod(shape[:-1]))
        return generator.standard_normal(shape) * 0.5

    shapes = flatten(abstract_params(model))
    return unflatten({p: draw(p, leaf.shape).astype(np.float32) for p, leaf in shapes.items()})


def assert_same(a, b):
    """Two flat dictionaries of arrays agree in keys, dtypes and every bit."""
    assert sorted(a) == sorted(b)
    for name in a:
        assert a[name].dtype == b[name].dtype, name
        np.testing.assert_array_equal(np.asarray(a[name]), np.asarray(b[name]), name)

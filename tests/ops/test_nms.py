import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.ops.boxes import iou
from jaxseg.ops.nms import nms


def one_by_one(boxes, scores, threshold):
    """Greedy suppression as the textbook has it."""
    overlaps = np.asarray(iou(jnp.asarray(boxes)[:, None], jnp.asarray(boxes)[None]))
    keep = np.zeros(len(boxes), bool)
    for i in np.argsort(-scores, kind="stable"):
        better = [j for j in np.nonzero(keep)[0] if overlaps[i, j] > threshold]
        keep[i] = not better and np.isfinite(scores[i])
    return keep


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7, 1.0])
def test_what_stays_is_what_the_textbook_keeps(threshold):
    rng = np.random.default_rng(0)
    corner, size = rng.uniform(0, 1, (2, 20, 40, 2))
    boxes = np.concatenate([corner, corner + size * 0.5], -1).astype(np.float32)
    scores = rng.integers(0, 6, (20, 40)).astype(np.float32)  # with ties
    found = jax.vmap(lambda b, s: nms(b, s, threshold))(boxes, scores)
    for i in range(20):
        np.testing.assert_array_equal(found[i], one_by_one(boxes[i], scores[i], threshold))


def test_a_suppressed_box_suppresses_nothing():
    boxes = jnp.array([[0, 0, 10, 10], [3, 0, 13, 10], [6, 0, 16, 10.0]])
    assert nms(boxes, jnp.array([3.0, 2.0, 1.0]), 0.5).tolist() == [True, False, True]


def test_slots_that_hold_nothing_neither_stay_nor_suppress():
    boxes = jnp.array([[0, 0, 10, 10], [0, 0, 10, 10.0]])
    assert nms(boxes, jnp.array([-jnp.inf, 0.5]), 0.5).tolist() == [False, True]
    assert nms(jnp.zeros((0, 4)), jnp.zeros(0), 0.5).shape == (0,)

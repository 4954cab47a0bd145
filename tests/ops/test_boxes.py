import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.ops.boxes import cxcywh_to_xyxy, generalized_iou, iou, scale_boxes, xyxy_to_cxcywh


def test_formats_are_each_others_inverse():
    boxes = jnp.array([[0.5, 0.5, 0.2, 0.4], [0.1, 0.9, 0.2, 0.2]])
    corners = cxcywh_to_xyxy(boxes)
    np.testing.assert_allclose(corners[0], [0.4, 0.3, 0.6, 0.7], atol=1e-7)
    np.testing.assert_allclose(xyxy_to_cxcywh(corners), boxes, atol=1e-7)


def test_boxes_scale_by_width_and_height_of_each_image():
    boxes = jnp.ones((2, 1, 4)) * 0.5
    scaled = scale_boxes(boxes, jnp.array([[10, 20], [100, 200]]))
    np.testing.assert_allclose(scaled[:, 0], [[10, 5, 10, 5], [100, 50, 100, 50]])


def test_overlaps_are_those_computed_by_hand():
    a = jnp.array([[0.0, 0.0, 2.0, 2.0]] * 3)
    b = jnp.array([[1.0, 1.0, 3.0, 3.0], [0.0, 0.0, 2.0, 2.0], [3.0, 0.0, 4.0, 2.0]])
    np.testing.assert_allclose(iou(a, b), [1 / 7, 1.0, 0.0], rtol=1e-6)
    # hulls of 9, 4 and 8; unions of 7, 4 and 6
    np.testing.assert_allclose(generalized_iou(a, b), [1 / 7 - 2 / 9, 1.0, -2 / 8], rtol=1e-6)


def test_empty_boxes_have_finite_overlap_and_gradient():
    point = jnp.array([[0.3, 0.3, 0.3, 0.3]])
    value, gradient = jax.value_and_grad(lambda a: generalized_iou(a, point).sum())(point)
    assert value == 0.0
    assert np.isfinite(gradient).all()

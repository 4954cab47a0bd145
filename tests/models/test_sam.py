"""Promises of Segment Anything's decoder; parity is the golden cases' business."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.models import build
from jaxseg.structures import Images, Prompts
from tests.predict.small_sam import small_sam
from tests.quick import quick_jit
from tests.shapes import flat_shapes

RNG = np.random.default_rng(0)
COUNTS = {"sam.vit_b": 93_735_728, "sam.vit_l": 312_343_088, "sam.vit_h": 641_090_864}


@pytest.fixture(scope="module")
def decode():
    model, params = small_sam()
    maps = jnp.asarray(RNG.normal(size=(1, 8, 8, 32)), jnp.float32)
    run = quick_jit(lambda prompts: model.apply({"params": params}, maps, prompts, method="decode"))
    return run


def points(*counts, slots=None):
    """Sets of so many points each."""
    slots = slots or max(counts)
    rng = np.random.default_rng(1)
    xy = rng.uniform(0, 128, (1, len(counts), slots, 2)).astype(np.float32)
    labels = rng.integers(0, 2, (1, len(counts), slots))
    mask = np.arange(slots) < np.asarray(counts)[:, None]
    return jnp.asarray(xy), jnp.asarray(labels), jnp.asarray(mask[None])


def assert_close(found, wanted):
    scale = np.abs(wanted.logits).max()
    np.testing.assert_allclose(found.logits, wanted.logits, rtol=0, atol=2e-5 * scale)
    np.testing.assert_allclose(found.iou, wanted.iou, rtol=0, atol=2e-5)


def row(masks, i):
    return jax.tree.map(lambda x: x[:, i : i + 1], masks)


@pytest.mark.parametrize(("name", "count"), COUNTS.items())
def test_published_models_have_the_published_number_of_parameters(name, count):
    shapes = flat_shapes(build(name))
    assert sum(np.prod(leaf.shape, dtype=int) for leaf in shapes.values()) == count


def test_points_that_only_fill_up_a_set_change_nothing(decode):
    xy, labels, mask = points(1, 3, 2)
    filled = decode(Prompts(xy, labels, mask))
    for i, count in enumerate((1, 3, 2)):
        alone = decode(Prompts(xy[:, i : i + 1, :count], labels[:, i : i + 1, :count]))
        assert_close(row(filled, i), alone)


def test_a_set_without_a_box_among_sets_with_one_is_as_alone(decode):
    xy, labels, _ = points(2, 2)
    boxes = jnp.asarray([[[10.0, 20, 60, 70], [0, 0, 1, 1]]])
    has_box = jnp.asarray([[True, False]])
    both = decode(Prompts(xy, labels, None, boxes, has_box))
    assert_close(row(both, 0), decode(Prompts(xy[:, :1], labels[:, :1], None, boxes[:, :1])))
    assert_close(row(both, 1), decode(Prompts(xy[:, 1:], labels[:, 1:])))


def test_a_set_without_a_mask_among_sets_with_one_is_as_alone(decode):
    xy, labels, _ = points(1, 1)
    masks = jnp.asarray(RNG.normal(size=(1, 2, 32, 32)), jnp.float32)
    both = decode(Prompts(xy, labels, masks=masks, masks_mask=jnp.asarray([[True, False]])))
    alone = decode(Prompts(xy[:, :1], labels[:, :1], masks=masks[:, :1]))
    assert_close(row(both, 0), alone)
    assert_close(row(both, 1), decode(Prompts(xy[:, 1:], labels[:, 1:])))
    # One mask serves all sets.
    shared = decode(Prompts(xy, labels, masks=masks[:, :1]))
    assert_close(row(shared, 0), alone)


def test_the_order_of_points_and_of_sets_changes_nothing(decode):
    xy, labels, _ = points(3, 3)
    wanted = decode(Prompts(xy, labels))
    turned = decode(Prompts(xy[:, ::-1, ::-1], labels[:, ::-1, ::-1]))
    assert_close(jax.tree.map(lambda x: x[:, ::-1], turned), wanted)


def test_sets_without_any_prompt_are_answered(decode):
    nothing = decode(Prompts())
    assert nothing.logits.shape == (1, 1, 4, 32, 32)
    empty = decode(Prompts(*points(0, 0, slots=2)))
    assert_close(row(empty, 0), nothing)


def test_the_single_mask_comes_first_and_the_multiple_after(decode):
    masks = decode(Prompts(*points(1, 1)))
    np.testing.assert_array_equal(masks.single.logits, masks.logits[:, :, :1])
    np.testing.assert_array_equal(masks.multiple.iou, masks.iou[:, :, 1:])


def test_at_half_precision_positions_and_masks_are_float32():
    model = build("sam.tiny", dtype=jnp.bfloat16)
    images = Images(jnp.zeros((1, 256, 256, 3)), jnp.ones((1, 256, 256), bool))
    prompts = Prompts(jnp.zeros((1, 1, 1, 2)), jnp.ones((1, 1, 1), jnp.int32))
    masks = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), images, prompts)[0])
    assert masks.logits.dtype == masks.iou.dtype == jnp.float32


def test_the_fourier_matrix_gets_no_gradient():
    model, params = small_sam()
    maps = jnp.asarray(RNG.normal(size=(1, 8, 8, 32)), jnp.float32)
    prompts = Prompts(*points(2))

    def total(params):
        return model.apply({"params": params}, maps, prompts, method="decode").logits.sum()

    gradient = quick_jit(jax.grad(total))(params)
    assert not gradient["prompt_encoder"]["pe_layer"]["gaussian_matrix"].any()
    assert gradient["mask_decoder"]["mask_tokens"].any()


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (Prompts(points(1)[0]), "points need labels, .*; got points alone"),
        (Prompts(points(1)[0], points(2)[1]), "must be .*image, set, point, 2"),
        (Prompts(boxes=jnp.zeros((1, 4))), r"boxes must be \(image, set, 4\).*; got \(1, 4\)"),
        (Prompts(masks=jnp.zeros((1, 1, 128, 128))), r"masks must be \(image, set, 32, 32\)"),
        (
            Prompts(boxes=jnp.zeros((2, 1, 4))),
            "as many images as there are embeddings, 1; got",
        ),
        (
            Prompts(boxes=jnp.zeros((1, 2, 4)), boxes_mask=jnp.ones((1, 3), bool)),
            r"boxes_mask says which boxes are real, and must be \(1, 2\); got \(1, 3\)",
        ),
        (Prompts(boxes_mask=jnp.ones((1, 3), bool)), "boxes_mask came without boxes"),
        (
            Prompts(*points(1, 1)[:2], boxes=jnp.zeros((1, 3, 4))),
            "for the same images and sets; got .*'points': .1, 2., 'boxes': .1, 3.",
        ),
    ],
)
def test_prompts_that_do_not_fit_together_are_refused(decode, prompts, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        decode(prompts)


def test_images_of_another_size_are_refused():
    model, params = small_sam()
    images = Images(jnp.zeros((1, 64, 128, 3)), jnp.ones((1, 64, 128), bool))
    with pytest.raises(ValueError, match="canvases of 128 × 128; got 64 × 128: resize the long"):
        model.apply({"params": params}, images, method="encode")
    with pytest.raises(ValueError, match="embeddings of this model are 8 × 8; got 4 × 4"):
        model.apply({"params": params}, jnp.zeros((1, 4, 4, 32)), Prompts(), method="decode")

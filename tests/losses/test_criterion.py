import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxseg.losses.classification import sigmoid_focal
from jaxseg.losses.criterion import FirstStage, SetCriterion
from jaxseg.structures import DetectorOutput, Features, Predictions, Targets
from tests.quick import quick_jit

LAYERS, IMAGES, QUERIES, CLASSES, SLOTS = 2, 4, 7, 5, 6


def outputs(seed=0):
    keys = jax.random.split(jax.random.key(seed), 2)
    shape = (LAYERS, IMAGES, QUERIES)
    return DetectorOutput(
        logits=jax.random.normal(keys[0], (*shape, CLASSES + 1)),
        boxes=jax.nn.sigmoid(jax.random.normal(keys[1], (*shape, 4))),
        states=jnp.zeros((*shape, 1)),
        memory=jnp.zeros((IMAGES, 1, 1)),
        features=Features((), ()),
        position=jnp.zeros((IMAGES, 1, 1)),
    )


def targets(counts, slots=SLOTS, seed=1):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, (IMAGES, 12))[:, :slots]
    boxes = rng.uniform(0.2, 0.6, (IMAGES, 12, 4))[:, :slots]
    mask = np.arange(slots) < np.asarray(counts)[:, None]
    return Targets(jnp.asarray(labels), jnp.asarray(boxes, jnp.float32), jnp.asarray(mask))


def losses_of(output, wanted, criterion=None):
    return quick_jit(criterion or SetCriterion())(output, wanted)


def images_of(tree, rows, axis):
    return jax.tree.map(lambda x: jnp.take(x, jnp.asarray(rows), axis), tree)


def part(output, rows):
    fields = {
        name: jnp.take(getattr(output, name), jnp.asarray(rows), 1)
        for name in ("logits", "boxes", "states")
    }
    empty = jnp.zeros((len(rows), 1, 1))
    return output.replace(**fields, memory=empty, position=empty)


def assert_same(a, b, atol=2e-6):
    assert a.terms.keys() == b.terms.keys()
    for name in a.terms:
        np.testing.assert_allclose(a.terms[name], b.terms[name], atol=atol * 50, err_msg=name)
    np.testing.assert_allclose(a.total, b.total, rtol=atol)


def test_more_empty_slots_change_nothing():
    counts = [0, 3, 6, 1]
    assert_same(
        losses_of(outputs(), targets(counts)), losses_of(outputs(), targets(counts, slots=12))
    )


def test_the_order_of_targets_changes_nothing():
    wanted = targets([6, 6, 6, 6])
    shuffled = images_of(wanted, [5, 2, 0, 4, 1, 3], 1)
    assert_same(losses_of(outputs(), wanted), losses_of(outputs(), shuffled))


def test_a_batch_without_objects_has_finite_losses_and_gradients():
    wanted = targets([0, 0, 0, 0])

    def total(logits, boxes):
        return SetCriterion()(outputs().replace(logits=logits, boxes=boxes), wanted).total

    differentiated = quick_jit(jax.value_and_grad(total, (0, 1)))
    value, gradients = differentiated(outputs().logits, outputs().boxes)
    assert np.isfinite(value)
    assert np.isfinite(gradients[0]).all()
    np.testing.assert_array_equal(gradients[1], 0)
    assert losses_of(outputs(), wanted).terms["class_error"] == 100


def test_more_objects_than_queries_stay_finite_and_count_in_num_boxes():
    wanted = targets([12, 0, 1, 2], slots=12)
    terms = losses_of(outputs(), wanted).terms
    assert all(np.isfinite(value) for value in terms.values())
    doubled = dataclasses.replace(SetCriterion(), aux_loss=False)
    matching = quick_jit(doubled.match)(outputs().logits, outputs().boxes, wanted)
    assert np.asarray(matching.mask.sum((0, 2)) / LAYERS).tolist() == [QUERIES, 0, 1, 2]
    assert float(doubled.normalizers(wanted).num_boxes) == 15


def test_totals_of_micro_batches_add_up_to_the_whole_batchs():
    wanted, criterion = targets([0, 5, 2, 6]), SetCriterion()
    whole = losses_of(outputs(), wanted, criterion)
    normalizers, compute = criterion.normalizers(wanted), quick_jit(criterion)
    parts = [
        compute(part(outputs(), rows), images_of(wanted, rows, 0), normalizers)
        for rows in ([0, 1], [2], [3])
    ]
    np.testing.assert_allclose(sum(p.total for p in parts), whole.total, rtol=1e-6)
    for name, value in whole.terms.items():
        np.testing.assert_allclose(sum(p.terms[name] for p in parts), value, rtol=1e-5)


def test_every_layer_is_matched_on_its_own():
    swapped = outputs().replace(logits=outputs().logits[::-1], boxes=outputs().boxes[::-1])
    first = losses_of(outputs(), targets([2, 3, 4, 5])).terms
    second = losses_of(swapped, targets([2, 3, 4, 5])).terms
    np.testing.assert_allclose(first["loss_giou"], second["loss_giou_0"], rtol=1e-6)
    np.testing.assert_allclose(first["loss_bbox_0"], second["loss_bbox"], rtol=1e-6)


def test_without_auxiliary_losses_only_the_last_layer_counts():
    criterion = SetCriterion(aux_loss=False)
    terms = losses_of(outputs(), targets([2, 3, 4, 5]), criterion).terms
    assert set(terms) == {
        "loss_ce", "loss_bbox", "loss_giou", "loss_xy", "loss_hw",
        "class_error", "cardinality_error",
    }  # fmt: skip


def test_the_encoders_boxes_can_count_in_its_matching_alone():
    output = outputs()
    found = Predictions(output.logits[0], output.boxes[0])
    output = output.replace(extras={"first_stage": found})
    both, classes = (
        losses_of(
            output,
            targets([1, 0, 3, 2]),
            SetCriterion(first_stage=FirstStage("interm", weight=2.0, boxes=boxes)),
        )
        for boxes in (True, False)
    )
    assert both.terms["loss_bbox_interm"] == classes.terms["loss_bbox_interm"] > 0
    boxes = 5 * both.terms["loss_bbox_interm"] + 2 * both.terms["loss_giou_interm"]
    np.testing.assert_allclose(both.total - classes.total, 2 * boxes, rtol=1e-5)


def test_a_perfect_prediction_costs_nothing_but_confidence():
    wanted = targets([3, 3, 3, 3], slots=3)
    logits = jnp.full((1, IMAGES, QUERIES, CLASSES + 1), 0.0).at[..., -1].set(50.0)
    image = jnp.arange(IMAGES)[:, None]
    slots = jnp.arange(3)[None]
    logits = logits.at[0, image, slots, wanted.labels].set(100.0)
    boxes = jnp.full((1, IMAGES, QUERIES, 4), 0.5).at[0, :, :3].set(wanted.boxes)
    output = outputs().replace(logits=logits, boxes=boxes, states=logits[..., :1])
    terms = losses_of(output, wanted).terms
    for name in ("loss_ce", "loss_bbox", "loss_giou", "class_error", "cardinality_error"):
        assert float(terms[name]) == pytest.approx(0, abs=1e-6), name


def test_focal_loss_is_finite_far_out_and_torchs_near():
    x = np.array([-200.0, -3.0, 0.0, 4.0, 200.0], np.float32)
    for target in (0.0, 1.0):
        ours = sigmoid_focal(jnp.asarray(x), jnp.full(5, target))
        t = torch.full((5,), target)
        p = torch.sigmoid(torch.tensor(x))
        bce = torch.nn.functional.binary_cross_entropy_with_logits(
            torch.tensor(x), t, reduction="none"
        )
        wrong = p * (1 - t) + (1 - p) * t
        theirs = (0.25 * t + 0.75 * (1 - t)) * wrong**2 * bce
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-8)

"""Denoising slots against the originals' rule, written out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.models.detr import denoising
from jaxseg.ops.boxes import cxcywh_to_xyxy
from jaxseg.structures import Targets


def targets(*counts, slots=4, seed=0):
    rng = np.random.default_rng(seed)
    b = len(counts)
    labels = rng.integers(0, 3, (b, slots))
    boxes = rng.uniform(0.3, 0.5, (b, slots, 4))
    mask = np.arange(slots) < np.asarray(counts)[:, None]
    return Targets(jnp.asarray(labels), jnp.asarray(boxes, jnp.float32), jnp.asarray(mask))


def rows(slots, image, *names):
    return [np.asarray(getattr(slots, name)[image]).astype(int).tolist() for name in names]


def test_a_group_holds_positives_then_negatives_of_the_fullest_images_length():
    slots = denoising.contrastive_slots(targets(2, 1, slots=3).mask, 50)
    # 100 positives and negatives over 2 · 2 slots: 25 groups
    assert slots.groups.tolist() == [25, 25]
    names = ("group", "negative", "target", "real")
    group, negative, target, real = (x[:8] for x in rows(slots, 0, *names))
    assert group == [0, 0, 0, 0, 1, 1, 1, 1]
    assert negative == [0, 0, 1, 1, 0, 0, 1, 1]
    assert target == [0, 1, 0, 1, 0, 1, 0, 1]
    assert real == [1] * 8
    assert rows(slots, 1, "real")[0][:8] == [1, 0, 1, 0, 1, 0, 1, 0]
    assert slots.used.sum(1).tolist() == [100, 100]


@pytest.mark.parametrize(
    ("number", "count", "groups", "budget"),
    [
        (100, 7, 14, 200),
        (100, 1, 100, 200),
        (100, 100, 1, 200),
        (100, 120, 1, 240),  # more objects than denoising queries: still one group
        (50, 30, 1, 100),
        (49, 3, 98, 980),  # the original does not divide small numbers by the objects
        (3, 5, 6, 60),
        (100, 0, 0, 200),
    ],
)
def test_the_number_of_groups_follows_the_originals_rule(number, count, groups, budget):
    mask = targets(count, 0, slots=max(count, 5)).mask
    slots = denoising.contrastive_slots(mask, number)
    assert slots.groups.tolist() == [groups, groups]
    assert slots.group.shape[1] == budget
    assert slots.used.sum(1).tolist() == [2 * groups * count] * 2


def test_per_image_each_image_has_the_slots_that_it_has_alone():
    both = denoising.contrastive_slots(targets(4, 1).mask, 50, images=1)
    for i, count in enumerate((4, 1)):
        alone = denoising.contrastive_slots(targets(count).mask, 50)
        one = jax.tree.map(lambda x, i=i: x[i : i + 1], both)
        for name in ("group", "negative", "real", "used", "groups"):
            np.testing.assert_array_equal(getattr(one, name), getattr(alone, name), name)


def test_neighbours_share_the_layout_of_their_fullest():
    slots = denoising.contrastive_slots(targets(1, 4, 2, 1, 3, slots=4).mask, 50, images=2)
    assert slots.groups.tolist() == [12, 12, 25, 25, 16]  # 50 over 4, 4, 2, 2 and 3 targets
    assert slots.used.sum(1).tolist() == [96, 96, 100, 100, 96]
    # More than there are is all of them.
    everyone = denoising.contrastive_slots(targets(1, 4).mask, 50, images=16)
    assert everyone.groups.tolist() == [12, 12]


def test_targets_count_wherever_their_slots_are():
    mask = jnp.array([[False, True, False, True]])
    slots = denoising.plain_slots(mask, 2)
    assert rows(slots, 0, "target")[0][:4] == [1, 3, 1, 3]
    assert rows(slots, 0, "real")[0] == [1] * 4 + [0] * 4


def test_who_may_see_whom():
    # one image with one target in two groups: slots 0 and 1 are used, 2 and 3 are not
    slots = denoising.plain_slots(jnp.array([[True, False]]), 2)
    mask = denoising.attention_mask(slots, 2)[0].astype(int).tolist()
    assert mask == [
        [1, 0, 0, 0, 1, 1],
        [0, 1, 0, 0, 1, 1],
        [0, 0, 0, 0, 1, 1],
        [0, 0, 0, 0, 1, 1],
        [0, 0, 0, 0, 1, 1],
        [0, 0, 0, 0, 1, 1],
    ]


def test_empty_slots_of_the_layout_are_seen_by_their_group():
    slots = denoising.plain_slots(jnp.array([[True, True], [True, False]]), 1)
    assert slots.real[1].tolist() == [True, False]
    assert denoising.attention_mask(slots, 1)[1, 0].tolist() == [True, True, True]


def test_noise_of_positives_stays_within_half_the_size_and_that_of_negatives_beyond():
    given = targets(4, seed=3)
    slots = denoising.contrastive_slots(given.mask, 100)
    noise = denoising.draw_noise(jax.random.key(0), slots, 3)
    boxes = denoising.contrastive_boxes(slots, given, noise, 0.4)
    clean = jnp.take_along_axis(given.boxes, slots.target[..., None], 1)
    moved = jnp.abs(cxcywh_to_xyxy(boxes) - cxcywh_to_xyxy(clean))
    share = moved / jnp.tile(clean[..., 2:] / 2, 2) / 0.4
    real, negative = np.asarray(slots.real), np.asarray(slots.negative)
    assert (np.asarray(share)[real & ~negative] <= 1.0001).all()
    far = np.asarray(share)[real & negative]
    assert ((far >= 0.9999) & (far <= 2.0001)).all()


def test_labels_are_replaced_at_the_rate():
    given = targets(4, 4)
    slots = denoising.contrastive_slots(given.mask, 100)
    noise = denoising.draw_noise(jax.random.key(1), slots, 1000)
    clean = np.take_along_axis(np.asarray(given.labels), np.asarray(slots.target), 1)
    changed = np.asarray(denoising.noised_labels(slots, given, noise, 0.25)) != clean
    assert abs(changed.mean() - 0.25) < 0.06
    unchanged = denoising.noised_labels(slots, given, noise, 0.0)
    np.testing.assert_array_equal(unchanged, clean)


def test_one_compilation_serves_every_number_of_objects():
    traced = []

    @jax.jit
    def layout(mask):
        traced.append(mask.shape)
        return denoising.contrastive_slots(mask, 100).groups

    assert [int(layout(targets(n).mask)[0]) for n in (0, 1, 2, 4)] == [0, 100, 50, 25]
    assert len(traced) == 1

"""Denoising: queries made of noised targets, which training asks the decoder to find again.

DN-DETR (arXiv 2203.01305), section 4; contrastive in DINO (arXiv 2203.03605), section 3.2.

The originals make as many slots as a batch needs: groups of as many targets as the fullest image
has. Here the number of slots is fixed by the padded targets, and the layout is the originals' own,
computed from the batch: slots past it are seen by nothing and stand in no loss. Empty slots
within it (of images with fewer targets) are attended, as in the originals.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxseg.ops.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from jaxseg.structures import Denoised, DetectorOutput, Noise, Slots, Targets
from jaxseg.typing import Array, Bool, Float, Int, Key


class Denoising(NamedTuple):
    """Noised targets as queries.

    Attributes:
      content: embedded labels, zero in empty slots.
      box_logits: of the noised boxes, zero in empty slots.
    """

    slots: Slots
    content: Float[Array, "b s d"]
    box_logits: Float[Array, "b s 4"]


def draw_noise(key: Key[Array, ""], slots: Slots, num_classes: int) -> Noise:
    """Random numbers for every slot."""
    flip, label, shift, sign = jax.random.split(key, 4)
    shape = slots.group.shape
    return Noise(
        flip=jax.random.uniform(flip, shape),
        label=jax.random.randint(label, shape, 0, num_classes),
        shift=jax.random.uniform(shift, (*shape, 4)),
        sign=jax.random.rademacher(sign, (*shape, 4), jnp.float32),
    )


def contrastive_slots(mask: Bool[Array, "b t"], number: int, *, images: int | None = None) -> Slots:
    """DINO's layout: group by group, a half of positives and a half of negatives.

    The number of groups follows from `number` (about as many positives in all) and the most
    targets of an image; below 50 the original's rule makes 2 · `number` groups of all targets.
    That takes 4 · `number` · t slots, far more than 50 or above would where t is large.

    Args:
      mask: True on real targets.
      images: so many neighbours share the layout of their fullest; None is the whole batch. The
        original's are the images of one process.
    """
    most = _most(mask, images)
    groups = _contrastive_groups(most, number)
    t = mask.shape[1]
    count = 2 * max(number, t) if number >= 50 else 4 * max(number, 1) * t
    return _layout(mask, most, groups, halves=2, count=count)


def plain_slots(mask: Bool[Array, "b t"], groups: int) -> Slots:
    """DN-DETR's layout: `groups` copies of all targets of the batch's fullest image.

    In the original that is the fullest of one process: fewer empty slots are then attended.
    """
    most = _most(mask, None)
    every = jnp.where(most > 0, groups, 0)
    return _layout(mask, most, every, halves=1, count=groups * mask.shape[1])


def _most(mask, images: int | None) -> Int[Array, " b"]:
    """Targets of the fullest among `images` neighbours (the last may be fewer), for each image."""
    b = len(mask)
    images = min(images or b, b)
    fullest = jnp.pad(mask.sum(1), (0, -b % images)).reshape(-1, images).max(1)
    return jnp.repeat(fullest, images)[:b]


def _contrastive_groups(most, number: int) -> Int[Array, " b"]:
    doubled = 2 * number
    if doubled >= 100:
        groups = doubled // jnp.maximum(2 * most, 1)
    else:
        groups = jnp.full_like(most, max(doubled, 1))
    return jnp.where(most > 0, jnp.maximum(groups, 1), 0)


def _layout(mask, most, groups, halves: int, count: int) -> Slots:
    """Slot (group · halves + half) · most + i copies the i-th real target of its image."""
    most, groups_of = jnp.maximum(most, 1)[:, None], groups[:, None]
    slot = jnp.arange(count)[None]
    repeat, place = slot // most, slot % most
    group = repeat // halves
    used = group < groups_of
    # Real targets may stand anywhere among the padded ones.
    order = jnp.argsort(~mask, axis=1, stable=True)
    target = jnp.take_along_axis(order, jnp.minimum(place, mask.shape[1] - 1), 1)
    real = used & (place < mask.sum(1)[:, None])
    negative = jnp.broadcast_to(repeat % halves == 1, used.shape)
    return Slots(jnp.broadcast_to(group, used.shape), negative, target, real, used, groups)


def noised_labels(slots: Slots, targets: Targets, noise: Noise, rate: float) -> Int[Array, "b s"]:
    """Each slot's label, replaced by a random one at the given rate."""
    labels = jnp.take_along_axis(targets.labels, slots.target, 1)
    return jnp.where(noise.flip < rate, noise.label, labels)


def contrastive_boxes(
    slots: Slots, targets: Targets, noise: Noise, scale: float
) -> Float[Array, "b s 4"]:
    """Corners moved by up to half the size times `scale`, those of negatives by more than that.

    cxcywh of corners held in [0, 1]. Those of negatives may cross: their sizes are negative, as
    in the original, and stand at the lower limit of the inverse sigmoid.
    """
    boxes = _slot_boxes(slots, targets)
    reach = jnp.tile(boxes[..., 2:] / 2, 2) * scale
    moved = noise.sign * (noise.shift + slots.negative[..., None]) * reach
    corners = jnp.clip(cxcywh_to_xyxy(boxes) + moved, 0, 1)
    return xyxy_to_cxcywh(corners)


def shifted_boxes(
    slots: Slots, targets: Targets, noise: Noise, scale: float
) -> Float[Array, "b s 4"]:
    """Centres moved by up to half the size, sizes by up to the size, each times `scale`."""
    boxes = _slot_boxes(slots, targets)
    reach = jnp.concatenate([boxes[..., 2:] / 2, boxes[..., 2:]], -1) * scale
    return jnp.clip(boxes + (2 * noise.shift - 1) * reach, 0, 1)


def _slot_boxes(slots: Slots, targets: Targets):
    boxes = targets.boxes.astype(jnp.float32)
    return jnp.take_along_axis(boxes, slots.target[..., None], 1)


def attention_mask(
    slots: Slots, num_queries: int, real: Bool[Array, "b q"] | None = None
) -> Bool[Array, "b n n"]:
    """Who may see whom: denoising slots come first, then the matching queries.

    Matching queries see each other alone; a slot sees its group and all matching queries.

    Args:
      real: matching queries that may be seen; None is all.
    """
    b, s = slots.group.shape
    group = jnp.where(slots.used, slots.group, -1)
    same = group[:, :, None] == group[:, None, :]
    same &= slots.used[:, None, :]
    top = jnp.concatenate([same, jnp.ones((b, s, num_queries), bool)], 2)
    bottom = jnp.zeros((b, num_queries, s), bool)
    bottom = jnp.concatenate([bottom, jnp.ones((b, num_queries, num_queries), bool)], 2)
    seen = jnp.concatenate([top, bottom], 1)
    if real is None:
        return seen
    return seen & jnp.concatenate([jnp.ones((b, s), bool), real], 1)[:, None]


def prepend(
    denoising: Denoising | None,
    content: Float[Array, "b q d"],
    reference: Float[Array, "b q 4"],
    real: Bool[Array, "b q"] | None = None,
) -> tuple[Float[Array, "b n d"], Float[Array, "b n 4"], Bool[Array, "b n n"] | None]:
    """Content and reference boxes of all queries, denoising ones first, and who may see whom.

    Args:
      real: matching queries that may be seen; None is all.
    """
    if denoising is None:
        return content, reference, seen_by_all(real)
    mask = attention_mask(denoising.slots, content.shape[1], real)
    boxes = jax.nn.sigmoid(denoising.box_logits)
    content = jnp.concatenate([denoising.content, content], 1)
    return content, jnp.concatenate([boxes, reference], 1), mask


def seen_by_all(real: Bool[Array, "b q"] | None) -> Bool[Array, "b q q"] | None:
    """The attention mask by which every query sees the `real` ones; None is no mask."""
    if real is None:
        return None
    return jnp.broadcast_to(real[:, None], (*real.shape, real.shape[1]))


def split_off(
    output: DetectorOutput, denoising: Denoising | None, *, score_empty: bool
) -> DetectorOutput:
    """The output of the matching queries alone; the others' goes into its extras.

    Args:
      output: of all queries, with "references" among its extras.
      score_empty: slots without a target stand in the class loss as background.
    """
    if denoising is None:
        return output
    slots = denoising.slots
    count = slots.group.shape[1]
    references = output.extras["references"]
    found = Denoised(
        logits=output.logits[:, :, :count],
        boxes=output.boxes[:, :, :count],
        target=slots.target,
        positive=slots.positive,
        scored=slots.used if score_empty else slots.real,
        groups=slots.groups,
    )
    more = {
        "denoising": denoising,
        "denoised": found,
        "denoised_references": references[:, :, :count],
        "denoised_states": output.states[:, :, :count],
        "references": references[:, :, count:],
    }
    return output.replace(
        logits=output.logits[:, :, count:],
        boxes=output.boxes[:, :, count:],
        states=output.states[:, :, count:],
        extras=output.extras | more,
    )

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.losses.criterion import SetCriterion
from jaxseg.params import flatten
from jaxseg.train.optim import Optimizer
from tests.quick import quick_jit
from tests.train.small import Glance, Parts, draw_batch, small_detr


def grads_by_moments(parts, batch):
    """After one step Adam's first moment is 0.1 × the (unclipped) gradient."""
    state, report = quick_jit(parts.step)(parts.state(), batch)
    return {path: m / 0.1 for path, m in state.opt_state.mu.items()}, report


def test_accumulated_micro_batches_equal_the_whole_batch():
    model, optimizer = small_detr(dropout=0.0), Optimizer(clip_norm=None)
    batch = draw_batch(0, 0)
    whole, report = grads_by_moments(Parts(model, optimizer=optimizer), batch)
    parts = Parts(model, optimizer=optimizer, micro_batches=4)
    summed, summed_report = grads_by_moments(parts, batch)
    # Sums in another order, in float32: measured are 1.5e-7 of a loss, and of a gradient 6e-6 of
    # its largest entry. That of a key's bias is zero but for rounding, about 1e-8.
    for name, value in report.metrics.items():
        np.testing.assert_allclose(summed_report.metrics[name], value, rtol=2e-6, err_msg=name)
    for path in whole:
        scale = np.abs(whole[path]).max()
        np.testing.assert_allclose(summed[path], whole[path], atol=2e-5 * scale + 1e-7)


def test_a_few_steps_lower_the_loss():
    parts = Parts(Glance(dropout=0.0))
    step, state, batch = quick_jit(parts.step), parts.state(), draw_batch(0, 0)
    losses = []
    for _ in range(12):
        state, report = step(state, batch)
        losses.append(float(report.metrics["loss"]))
    assert losses[-1] < 0.9 * losses[0]


def test_a_bfloat16_model_trains_with_float32_parameters():
    model = small_detr(dropout=0.0, dtype=jnp.bfloat16)
    parts = Parts(model)
    step, state, batch = quick_jit(parts.step), parts.state(), draw_batch(0, 0)
    losses = []
    for _ in range(8):
        state, report = step(state, batch)
        losses.append(float(report.metrics["loss"]))
    assert losses[-1] < losses[0]
    assert {x.dtype for x in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}


def test_dropout_depends_on_seed_and_step_alone():
    parts = Parts(Glance(dropout=0.5))
    step, state, batch = quick_jit(parts.step), parts.state(), draw_batch(0, 0)

    def loss(state):
        return float(step(state, batch)[1].metrics["loss"])

    assert loss(state) == loss(state)
    assert loss(state) != loss(state.replace(step=state.step + 1))
    assert loss(state) != loss(state.replace(seed=state.seed + 1))


def test_frozen_parameters_stay_and_have_no_moments():
    frozen = (("^(patch|norm)/", True),)
    parts = Parts(optimizer=Optimizer(frozen=frozen))
    before = flatten(parts.state().params)
    after, _ = quick_jit(parts.step)(parts.state(), draw_batch(0, 0))
    held = [path for path in before if path.startswith(("patch/", "norm/"))]
    assert len(held) == 4
    assert not set(held) & set(after.opt_state.mu)
    for path, value in flatten(after.params).items():
        assert np.array_equal(value, before[path]) == (path in held), path


def test_the_average_follows_the_parameters_and_warms_up():
    parts = Parts(ema=0.9)
    state = parts.state()
    old = flatten(state.params)
    new, _ = quick_jit(parts.step)(state, draw_batch(0, 0))
    path = "class_embed/kernel"
    # At step 0 the decay is min(0.9, 1 / 10).
    wanted = 0.1 * old[path] + 0.9 * flatten(new.params)[path]
    np.testing.assert_allclose(new.ema[path], wanted, rtol=1e-6)
    np.testing.assert_array_equal(flatten(new.averaged())[path], new.ema[path])


class Rooted(SetCriterion):
    """Adds a root of nothing: a finite loss whose gradient of the boxes is 0 / 0."""

    def __call__(self, output, *arguments):
        losses = super().__call__(output, *arguments)
        offset = output.boxes - jax.lax.stop_gradient(output.boxes)
        return losses.replace(total=losses.total + jnp.sqrt(jnp.square(offset).sum()))


def test_a_finite_loss_with_gradients_that_are_not_changes_nothing():
    parts = Parts(criterion=Rooted())
    state = parts.state()
    after, report = quick_jit(parts.step)(state, draw_batch(0, 0))
    assert np.isfinite(report.metrics["loss"])
    assert not report.finite
    finite = dict(zip(sorted(parts.trainable), report.finite_gradients.tolist(), strict=True))
    assert not finite["bbox_embed/kernel"]
    assert finite["class_embed/kernel"]
    jax.tree.map(np.testing.assert_array_equal, after, state)


@pytest.mark.parametrize("what", ["pixels", "boxes"])
def test_a_step_that_is_not_finite_says_so_and_changes_nothing(what):
    parts = Parts()
    batch = draw_batch(0, 0)
    if what == "pixels":
        pixels = batch.images.pixels.astype(np.float32)
        pixels[0] = np.nan
        batch = batch.replace(images=batch.images.replace(pixels=pixels))
    else:
        boxes = np.full_like(batch.targets.boxes, np.inf)
        batch = batch.replace(targets=batch.targets.replace(boxes=boxes))
    state = parts.state()
    after, report = quick_jit(parts.step)(state, batch)
    assert not report.finite
    jax.tree.map(np.testing.assert_array_equal, after, state)

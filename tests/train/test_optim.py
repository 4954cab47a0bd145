import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from jaxseg.errors import UserError
from jaxseg.train.adamw import clip_factor, of_optax
from jaxseg.train.optim import Ema, Optimizer
from jaxseg.train.schedule import Schedule
from tests.quick import AS_SHIPPED

SHAPES = {"backbone/kernel": (3, 4), "head/kernel": (4, 5), "head/bias": (5,)}


def draw(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return {p: rng.normal(0, scale, s).astype(np.float32) for p, s in SHAPES.items()}


def test_clipping_equals_torchs():
    for scale in (1e-4, 1.0, 100.0):
        grads = draw(1, scale)
        factor = clip_factor(grads, 0.1)
        theirs = {path: torch.nn.Parameter(torch.zeros(shape)) for path, shape in SHAPES.items()}
        for path, parameter in theirs.items():
            parameter.grad = torch.from_numpy(grads[path].copy())
        torch.nn.utils.clip_grad_norm_(theirs.values(), 0.1)
        for path, parameter in theirs.items():
            np.testing.assert_allclose(factor * grads[path], parameter.grad, rtol=2e-6)


def test_adamw_equals_torchs_with_groups_over_many_steps():
    params = draw(0)
    config = Optimizer(
        learning_rate=1e-2,
        weight_decay=0.1,
        clip_norm=None,
        learning_rates=(("^backbone/", 0.1),),
        decays=(("bias$", 0.0),),
    )
    optimizer = config.build(Schedule("step", drops=(0.5,)).build(20), SHAPES)
    theirs = {p: torch.nn.Parameter(torch.from_numpy(v.copy())) for p, v in params.items()}
    groups = [
        {"params": [theirs["backbone/kernel"]], "lr": 1e-3, "weight_decay": 0.1},
        {"params": [theirs["head/kernel"]], "weight_decay": 0.1},
        {"params": [theirs["head/bias"]], "weight_decay": 0.0},
    ]
    torchs = torch.optim.AdamW(groups, lr=1e-2)
    dropping = torch.optim.lr_scheduler.StepLR(torchs, 10)
    state = optimizer.init(params)
    for step in range(20):
        grads = draw(step + 100)
        params, state = optimizer.apply(grads, state, params, jnp.asarray(True))
        for path, parameter in theirs.items():
            parameter.grad = torch.from_numpy(grads[path])
        torchs.step()
        dropping.step()
    for path, value in params.items():
        np.testing.assert_allclose(value, theirs[path].detach(), atol=1e-6, err_msg=path)


def test_a_step_schedule_drops_at_its_fractions():
    factor = Schedule("step", drops=(0.5, 0.75), factor=0.1).build(8)
    wanted = [1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01]
    np.testing.assert_allclose([factor(step) for step in range(8)], wanted, rtol=1e-6)


def test_a_cosine_falls_after_a_linear_warm_up():
    factor = Schedule("cosine", warmup_steps=4, end=0.2).build(8)
    half = 0.2 + 0.8 * 0.5
    ends = {0: 0.25, 1: 0.5, 2: 0.75, 3: 1.0, 4: 1.0, 6: half, 8: 0.2}
    for step, value in ends.items():
        np.testing.assert_allclose(factor(step), value, rtol=1e-6, err_msg=str(step))


def test_a_constant_schedule_warms_up_and_stays():
    factor = Schedule("constant", warmup_steps=2).build(5)
    np.testing.assert_allclose([factor(step) for step in range(5)], [0.5, 1, 1, 1, 1])


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (Schedule("linear"), "there are step, cosine, constant"),
        (Schedule(drops=(200,)), "fractions of the run"),
        (Schedule(warmup_steps=-1), "must be 0 or more"),
    ],
)
def test_a_wrong_schedule_is_an_error(schedule, message):
    with pytest.raises(UserError, match=message):
        schedule.build(10)


def test_the_average_starts_with_little_memory():
    ema = Ema(0.999)
    average, params = {"w": jnp.zeros(2)}, {"w": jnp.ones(2)}
    steps = [float(ema.update(average, params, jnp.int32(t))["w"][0]) for t in (0, 9, 10**6)]
    np.testing.assert_allclose(steps, [1 - 1 / 10, 1 - 10 / 19, 0.001], rtol=1e-4)


def test_an_average_of_what_stands_still_stays_bit_for_bit():
    value = jnp.asarray(np.random.default_rng(0).normal(size=100), jnp.float32)
    average = {"w": value}
    for t in range(20):
        average = jax.jit(Ema(0.97).update)(average, {"w": value}, jnp.int32(t))
    np.testing.assert_array_equal(average["w"], value)


def test_frozen_batch_normalisation_is_constant_without_a_rule():
    norm = [f"backbone/norm1/{name}" for name in ("scale", "bias", "mean", "var")]
    paths = ["backbone/conv1/kernel", *norm, "head/norm/scale", "head/norm/bias"]
    wanted = ("backbone/conv1/kernel", "head/norm/bias", "head/norm/scale")
    assert Optimizer().trainable(paths) == wanted


def test_freezing_everything_is_an_error():
    with pytest.raises(UserError, match="nothing is left to train"):
        Optimizer(frozen=(("", True),)).trainable(SHAPES)


def test_any_optimizer_of_optax_updates_and_stays_where_nothing_is_finite():
    params, grads = draw(0), draw(1)
    sgd = optax.sgd(0.1, momentum=0.9)
    update = of_optax(sgd)
    new, state = update.apply(grads, update.init(params), params, jnp.asarray(True))
    for path in params:
        np.testing.assert_allclose(new[path], params[path] - 0.1 * grads[path], rtol=1e-6)
    kept, same = update.apply(grads, state, new, jnp.asarray(False))
    jax.tree.map(np.testing.assert_array_equal, (kept, same), (new, state))


def test_the_state_is_changed_in_place():
    """XLA would copy every parameter and moment, were new ones computed beside the old."""
    params = {"kernel": jnp.zeros((512, 512))}
    update = Optimizer().build(Schedule().build(10), params)

    def step(params, state, average):
        grads = jax.tree.map(jnp.cos, average)
        params, state = update.apply(grads, state, params, jnp.isfinite(grads["kernel"].sum()))
        return params, state, Ema(0.9).update(average, params, state.count)

    lowered = jax.jit(step, donate_argnums=(0, 1, 2)).lower(params, update.init(params), params)
    assert not re.findall(r"f32\[512,512\]\S* copy\(", lowered.compile(AS_SHIPPED).as_text())

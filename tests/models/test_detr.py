import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxseg.losses.criterion import SetCriterion
from jaxseg.models import build
from jaxseg.models.detr import detr
from jaxseg.models.detr.detr import is_exact
from jaxseg.params import abstract_params
from jaxseg.structures import Images, Targets
from tests import weights
from tests.quick import quick_jit
from tests.shapes import NUMBERED

# parameters of the published models with frozen convolutions, without normalisation statistics
# (two arrays a norm): 41.525 M and 60.465 M
PARAMETERS = {"r50": 41_524_768, "r101": 60_464_672}


def images(*arrays, canvas):
    pixels = np.zeros((len(arrays), *canvas, 3), np.float32)
    mask = np.zeros((len(arrays), *canvas), bool)
    for i, array in enumerate(arrays):
        h, w = array.shape[:2]
        pixels[i, :h, :w], mask[i, :h, :w] = array, True
    return Images(jnp.asarray(pixels), jnp.asarray(mask))


def noise(h, w, seed):
    return np.random.default_rng(seed).normal(size=(h, w, 3)).astype(np.float32)


def small(**fields):
    options = {
        "depth": 18, "width": 32, "num_heads": 4, "feedforward": 64, "encoder_layers": 2,
        "decoder_layers": 2, "num_queries": 9, "num_classes": 4, "dropout": 0.0,
    }  # fmt: skip
    model = detr(**options | fields)
    # as few blocks as there are kinds of them: compiling is what these tests spend time on
    return model.clone(backbone=model.backbone.clone(depths=(1, 1, 1, 2)))


@functools.partial(quick_jit, static_argnames=("model", "train"))
def run(model, params, batch, targets=None, train=False, seed=0):
    rngs = {"dropout": jax.random.key(seed)}
    return model.apply({"params": params}, batch, targets, train, rngs=rngs)


def init(model):
    return weights.draw(model, images(noise(64, 64, 0), canvas=(64, 64)))


@pytest.mark.parametrize(("name", "count"), PARAMETERS.items())
def test_published_models_have_the_published_number_of_parameters(name, count):
    shapes = jax.eval_shape(
        build(f"detr.{name}").init, jax.random.key(0), images(noise(64, 64, 0), canvas=(64, 64))
    )
    flat = jax.tree_util.tree_leaves_with_path(shapes["params"])
    counted = [
        leaf.size for path, leaf in flat
        if path[-1].key in ("kernel", "embedding") or path[0].key != "backbone"
    ]  # fmt: skip
    assert sum(counted) == count


@pytest.mark.parametrize("name", NUMBERED)
def test_every_model_answers_with_the_shapes_it_promises(name):
    model = build(name, num_classes=11, num_queries=13)
    batch = images(noise(64, 96, 0), noise(50, 33, 1), canvas=(64, 128))
    output, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), batch)
    # One class more stands for no object, where classes compete.
    classes = 12 if name.startswith("detr.") else 11
    queries = 13 * max(getattr(model, "num_patterns", 0), 1)
    layers = model.decoder.num_layers
    assert output.logits.shape == (layers, 2, queries, classes)
    assert output.boxes.shape == (layers, 2, queries, 4)
    strides = list(model.backbone.strides)
    if not hasattr(model, "neck"):
        strides = strides[-1:]
    while len(strides) < getattr(getattr(model, "neck", None), "num_levels", 1):
        strides.append(2 * strides[-1])
    assert output.memory.shape[1] == sum(-(-64 // s) * -(-128 // s) for s in strides)


@pytest.mark.parametrize("norm", ["frozen_batch_norm", "group_norm"])
@pytest.mark.parametrize("dilation", [False, True])
def test_an_exact_canvas_gives_every_image_the_result_it_has_alone(norm, dilation):
    model = small(norm=norm, dilation=dilation, canvas="exact")
    params = init(model)
    first, second = noise(61, 90, 1), noise(96, 40, 2)
    alone = run(model, params, images(first, canvas=(64, 96)))
    together = run(model, params, images(first, second, canvas=(96, 96)))
    larger = run(model, params, images(first, canvas=(128, 160)))
    for other in (together, larger):
        np.testing.assert_allclose(other.boxes[:, :1], alone.boxes, rtol=0, atol=3e-6)
        np.testing.assert_allclose(other.logits[:, :1], alone.logits, rtol=0, atol=3e-5)


def test_an_exact_canvas_equals_the_original_without_padding():
    model = small(canvas="exact")
    params = init(model)
    image = noise(61, 90, 1)
    exact = run(model, params, images(image, canvas=(128, 96)))
    original = model.clone(canvas="padded")
    unpadded = run(original, params, images(image, canvas=(61, 90)))
    np.testing.assert_allclose(exact.boxes, unpadded.boxes, rtol=0, atol=3e-6)
    padded = run(original, params, images(image, canvas=(128, 96)))
    assert np.abs(padded.boxes - unpadded.boxes).max() > 1e-4  # what exactness is there for


def test_neighbours_and_targets_change_nothing():
    model = small(canvas="exact")
    params = init(model)
    batch = images(noise(64, 64, 1), noise(64, 64, 2), canvas=(64, 64))
    targets = Targets(jnp.zeros((2, 3), int), jnp.ones((2, 3, 4)), jnp.ones((2, 3), bool))
    plain = run(model, params, batch)
    swapped = run(model, params, jax.tree.map(lambda x: x[::-1], batch), targets)
    np.testing.assert_allclose(swapped.boxes[:, ::-1], plain.boxes, rtol=0, atol=3e-6)


def test_a_row_that_only_fills_up_the_batch_stays_finite():
    for norm in ("frozen_batch_norm", "group_norm"):
        model = small(norm=norm, canvas="exact")
        batch = images(noise(64, 64, 1), noise(0, 0, 2), canvas=(64, 64))
        output = run(model, init(model), batch)
        assert all(np.isfinite(x).all() for x in (output.logits, output.boxes, output.memory))


def test_bfloat16_computes_in_bfloat16_and_answers_in_float32():
    exact = small()
    params = init(exact)
    batch = images(noise(64, 64, 1), canvas=(64, 64))
    half = run(small(dtype=jnp.bfloat16), params, batch)
    full = run(exact, params, batch)
    assert half.states.dtype == half.memory.dtype == jnp.bfloat16
    assert half.logits.dtype == half.boxes.dtype == jnp.float32
    assert 1e-4 < np.abs(half.boxes - full.boxes).max() < 0.1


@pytest.mark.parametrize("position", ["sine", "learned"])
def test_every_parameter_has_the_asked_dtype(position):
    shapes = abstract_params(small(position=position, param_dtype=jnp.bfloat16))
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype(jnp.bfloat16)}


def test_several_sets_of_weights_run_under_vmap():
    model = small()
    first = init(model)
    several = [first, jax.tree.map(lambda leaf: 0.9 * leaf, first)]
    batch = images(noise(64, 64, 1), canvas=(64, 64))
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *several)
    together = quick_jit(jax.vmap(lambda p: model.apply({"params": p}, batch).boxes))(stacked)
    for boxes, params in zip(together, several, strict=True):
        np.testing.assert_allclose(boxes, run(model, params, batch).boxes, atol=1e-5)


def test_model_and_criterion_run_and_differentiate_under_shard_map():
    model, criterion = small(), SetCriterion()
    params = jax.tree.map(jnp.asarray, init(model))
    batch = images(noise(64, 64, 1), noise(64, 64, 2), canvas=(64, 64))
    targets = Targets(
        jnp.array([[0, 2], [1, 0]]),
        jnp.full((2, 2, 4), 0.4),
        jnp.array([[True, True], [True, False]]),
    )
    normalizers = criterion.normalizers(targets)

    def total(params, images, targets):
        output = model.apply({"params": params}, images)
        return criterion(output, targets, normalizers).total

    def part(params, images, targets):
        value = jax.value_and_grad(total)(params, images, targets)
        return jax.lax.psum(value, "data")

    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    specs = (P(), P("data"), P("data"))
    # The matching's loop begins with a constant, which the check would call replicated.
    mapped = jax.shard_map(part, mesh=mesh, in_specs=specs, out_specs=P(), check_vma=False)
    value, gradient = quick_jit(mapped)(params, batch, targets)
    whole, expected = quick_jit(jax.value_and_grad(total))(params, batch, targets)
    np.testing.assert_allclose(value, whole, rtol=1e-6)
    for one, other in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_frozen_statistics_get_no_gradient_and_convolutions_do():
    model = small()
    params = init(model)
    batch = images(noise(64, 64, 1), canvas=(64, 64))

    def scalar(params):
        output = model.apply({"params": params}, batch)
        return output.boxes.sum() + output.logits.sum()

    gradients = quick_jit(jax.grad(scalar))(params)["backbone"]
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradients["norm1"]))
    assert np.any(gradients["conv1"]["kernel"])


def test_dropout_acts_in_training_only_and_follows_its_key():
    model = small(dropout=0.5)
    params = init(model)
    batch = images(noise(64, 64, 1), canvas=(64, 64))

    def boxes(seed):
        return run(model, params, batch, train=True, seed=seed).boxes

    np.testing.assert_array_equal(boxes(0), boxes(0))
    assert np.any(boxes(0) != boxes(1))


@pytest.mark.parametrize("fields", [{"pre_norm": True}, {"position": "learned"}, {"remat": True}])
def test_variants_run_and_differentiate(fields):
    model = small(**fields)
    params = init(model)
    batch = images(noise(64, 64, 1), canvas=(64, 64))

    def scalar(params):
        return model.apply({"params": params}, batch).boxes.sum()

    gradient = quick_jit(jax.grad(scalar))(params)
    assert np.any(gradient["encoder"]["layer_0"]["linear1"]["kernel"])
    assert ("norm" in params["encoder"]) == ("pre_norm" in fields)


def test_wrong_images_are_refused_with_the_shape_and_the_remedy():
    model = small(canvas="exact")
    params = init(model)
    odd = images(noise(60, 64, 1), canvas=(60, 64))
    with pytest.raises(ValueError, match=r"multiples of 32; got 60 × 64"):
        model.apply({"params": params}, odd)
    batch = images(noise(64, 64, 1), canvas=(64, 64))
    raw = batch.replace(pixels=batch.pixels.astype(jnp.uint8))
    with pytest.raises(ValueError, match=r"normalize"):
        model.apply({"params": params}, raw)
    with pytest.raises(ValueError, match=r"no model 'detr\.r49'; there are .*\bdetr\.r101, "):
        build("detr.r49")
    with pytest.raises(ValueError, match=r"no activation 'swish'"):
        small(activation="swish")
    # the tests' type checker would refuse a module with this field before the model does
    with pytest.raises(ValueError, match=r"canvas must be one of padded, exact; got 'excat'"):
        is_exact("excat")

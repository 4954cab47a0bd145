"""Promises of the detectors with anchors: DINO, DAB-DETR, DN-DETR and their deformable forms."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxseg.models import build
from jaxseg.models.dab_deformable_detr import dab_deformable_detr
from jaxseg.models.deformable_detr import deformable_detr
from jaxseg.models.detr.queries import anchor_logits
from jaxseg.models.dino import dino
from jaxseg.models.dn_detr import encoder_only
from jaxseg.params import flatten
from jaxseg.structures import Images
from tests.models.small import BUILDERS, CRITERION, SMALL, init, small, some_targets
from tests.models.test_detr import images, noise
from tests.quick import quick_jit
from tests.shapes import flat_shapes

EVERY_RUN = ("dab_patterns", "dn_deformable", "dino")
DENOISING = ("dn", "dn_deformable", "dn_encoder_only", "dino")
# Kernels whose input is zero, and what only denoising reads.
UNREACHED = {
    "dab": {f"decoder/layer_0/sa_{part}_proj/kernel" for part in ("qcontent", "kcontent", "v")},
    "dino_static": {"label_enc/embedding"},
}
# All parameters without normalisation statistics, and those that the paper's recipe trains.
TRAINED = {
    "deformable_detr.r50_single_scale": 33_844_193,
    "deformable_detr.r50_dc5_single_scale": 33_844_193,
    "deformable_detr.r50": 39_847_265,
    "deformable_detr.r50_refine": 40_627_260,
    "deformable_detr.r50_refine_two_stage": 40_959_129,
    "dab_detr.r50": 43_449_117,
    "dab_detr.r50_3patterns": 43_449_117 + 768,
    "dab_deformable_detr.r50": 47_183_594,
    "dn_detr.r50": 43_472_577,
    "dn_detr.deformable_r50": 47_206_754,
    "dn_detr.encoder_only_r50": 48_266_189,
    "dino.r50_4scale": 46_670_782,
    "dino.r50_5scale": 47_033_406,
}


@pytest.mark.parametrize(("name", "count"), TRAINED.items())
def test_published_models_train_the_published_number_of_parameters(name, count):
    flat = flat_shapes(build(name))
    frozen = {p.rpartition("/")[0] for p in flat if p.endswith("/var")}
    trained = {
        path: leaf
        for path, leaf in flat.items()
        if path.rpartition("/")[0] not in frozen
        and not path.startswith(("backbone/conv1", "backbone/layer1_"))
    }
    assert sum(np.prod(leaf.shape, dtype=int) for leaf in trained.values()) == count


@pytest.mark.parametrize("name", ["two_stage", "dn_deformable", "dino_unshared"])
def test_heads_begin_as_copies_of_one(name):
    model = small(name)
    drawn = quick_jit(model.init)(jax.random.key(0), images(noise(64, 64, 0), canvas=(64, 64)))
    flat = flatten(drawn["params"])
    heads = {path.partition("/")[0] for path in flat if "_embed" in path.partition("/")[0]}
    for kind in ("class_embed", "bbox_embed"):
        names = [head for head in heads if kind in head]
        assert len(names) == (2 if name == "dn_deformable" else 3)
        for path in [path for path in flat if path.startswith(f"{names[0]}/")]:
            rest = path.partition("/")[2]
            if rest != "layer_2/bias":
                for other in names[1:]:
                    np.testing.assert_array_equal(flat[path], flat[f"{other}/{rest}"])
    if name == "dn_deformable":
        np.testing.assert_array_equal(flat["bbox_embed_0/layer_2/bias"], [0, 0, -2, -2])
        assert not flat["bbox_embed_1/layer_2/bias"].any()


@pytest.mark.parametrize(
    "name",
    [
        "dino",
        "dn_encoder_only",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("two_stage", "dab_deformable")),
    ],
)
def test_an_exact_canvas_gives_every_image_the_result_it_has_alone(name):
    model = small(name, canvas="exact")
    params = init(model)
    run = quick_jit(model.apply)
    one, other = noise(90, 120, 1), noise(128, 70, 2)
    alone = run({"params": params}, images(one, canvas=(128, 128)))
    batch = run({"params": params}, images(one, other, canvas=(128, 128)))
    larger = run({"params": params}, images(one, canvas=(192, 256)))
    for found in (batch, larger):
        np.testing.assert_allclose(found.boxes[:, :1], alone.boxes, rtol=0, atol=5e-6)
        np.testing.assert_allclose(found.logits[:, :1], alone.logits, rtol=0, atol=5e-5)


@pytest.mark.parametrize(
    "name",
    [n if n in EVERY_RUN else pytest.param(n, marks=pytest.mark.slow) for n in sorted(BUILDERS)],
)
def test_every_model_trains_on_images_with_and_without_objects(name):
    model = small(name)
    params = init(model)
    batch = images(noise(64, 64, 1), noise(64, 50, 2), canvas=(64, 64))
    rngs = {"dropout": jax.random.key(0), "denoising": jax.random.key(1)}

    @quick_jit
    def step(params, targets):
        def total(params):
            output = model.apply({"params": params}, batch, targets, train=True, rngs=rngs)
            return CRITERION(output, targets).total

        return jax.value_and_grad(total)(params)

    for counts in ((3, 1), (2, 0), (0, 0)):
        loss, gradient = step(params, some_targets(*counts))
        assert np.isfinite(loss)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
        assert loss > 0
        if counts == (3, 1):
            still = {path for path, leaf in flatten(gradient).items() if not leaf.any()}
            statistics = {path for path in still if re.search("^backbone/.*norm", path)}
            assert still - statistics == UNREACHED.get(name, set())
    assert step._cache_size() == 1


@pytest.mark.parametrize("name", DENOISING)
def test_denoising_changes_nothing_for_the_matching_queries(name):
    model = small(name)
    params = init(model)
    batch = images(noise(64, 64, 1), noise(64, 50, 2), canvas=(64, 64))
    apply = quick_jit(model.apply, static_argnames="train")
    plain = apply({"params": params}, batch)
    denoised = apply(
        {"params": params},
        batch,
        some_targets(3, 1),
        train=True,
        rngs={"denoising": jax.random.key(1)},
    )
    np.testing.assert_allclose(denoised.boxes, plain.boxes, rtol=0, atol=1e-5)
    assert denoised.extras["denoised"].positive.any()


@pytest.mark.parametrize("kind", [deformable_detr, dino, dab_deformable_detr, encoder_only])
@pytest.mark.parametrize(
    ("num_levels", "strides"),
    [(1, [32]), (2, [16, 32]), (3, [8, 16, 32]), (4, [8, 16, 32, 64])],
)
def test_few_levels_are_the_coarsest(kind, num_levels, strides):
    model = kind(**SMALL, num_levels=num_levels)
    batch = images(noise(64, 128, 1), canvas=(64, 128))
    output = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), batch)[0])
    assert output.memory.shape[1] == sum((64 // s) * (128 // s) for s in strides)
    assert model.stride == strides[-1]


@pytest.mark.parametrize("name", ["dino", "two_stage", "deformable", "dn_encoder_only"])
def test_at_half_precision_places_boxes_and_scores_are_computed_in_float32(name):
    model = small(name, dtype=jnp.bfloat16)
    batch = images(noise(64, 64, 1), canvas=(64, 64))
    variables = jax.eval_shape(model.init, jax.random.key(0), batch)
    _, found = jax.eval_shape(
        lambda variables: model.apply(
            variables, batch, capture_intermediates=True, mutable="intermediates"
        ),
        {"params": variables["params"]},
    )
    paths = ((path.split("/"), kept) for path, kept in flatten(found["intermediates"]).items())
    dtypes = {parts[-2]: kept[0].dtype for parts, kept in paths if hasattr(kept[0], "dtype")}
    exact = re.compile("sampling_offsets|reference_points|(enc_out_)?(class|bbox)_embed")
    assert {str(dtype) for part, dtype in dtypes.items() if exact.match(part)} == {"float32"}
    assert dtypes["linear1"] == dtypes["norm3"] == jnp.bfloat16


@pytest.mark.parametrize("name", ["dino", pytest.param("two_stage", marks=pytest.mark.slow)])
def test_on_an_exact_canvas_padding_fills_up_queries_and_is_seen_by_none(name):
    model = small(name, num_queries=100, num_select=400, canvas="exact")
    params, run = init(model), quick_jit(model.apply)
    alone = run({"params": params}, images(noise(64, 64, 1), canvas=(64, 64)))
    larger = run({"params": params}, images(noise(64, 64, 1), canvas=(64, 128)))
    assert (alone.boxes.shape[2], larger.boxes.shape[2]) == (85, 100)
    np.testing.assert_allclose(larger.boxes[:, :, :85], alone.boxes, rtol=0, atol=5e-6)
    np.testing.assert_allclose(larger.logits[:, :, :85], alone.logits, rtol=0, atol=5e-5)
    found = model.detections(larger, jnp.array([[64, 64]]))
    assert (found.scores > 0).sum() == 85 * model.num_classes


@pytest.mark.parametrize("name", ["dino", "two_stage"])
def test_on_an_exact_canvas_padding_stands_in_no_loss_of_the_proposals(name):
    fields = {"propose_all": True, "dn_number": 0} if name == "dino" else {}
    model = small(name, canvas="exact", **fields)
    params, run, targets = init(model), quick_jit(model.apply), some_targets(3)
    criterion = dataclasses.replace(CRITERION, denoising=False)

    @quick_jit
    def losses(output):
        return criterion(output, targets).terms

    own, larger = (
        losses(run({"params": params}, images(noise(64, 64, 1), canvas=canvas)))
        for canvas in ((64, 64), (64, 128))
    )
    terms = ("loss_ce_interm", "loss_bbox_interm", "loss_giou_interm")
    for term in terms:
        np.testing.assert_allclose(larger[term], own[term], rtol=1e-5)


@pytest.mark.parametrize("name", ["dino", "dn_encoder_only"])
def test_layers_computed_again_have_the_same_gradients(name):
    batch, targets = images(noise(64, 64, 1), canvas=(64, 64)), some_targets(2)
    rngs = {"dropout": jax.random.key(0), "denoising": jax.random.key(1)}
    params = init(small(name))

    def gradients(model):
        def total(params):
            output = model.apply({"params": params}, batch, targets, train=True, rngs=rngs)
            return CRITERION(output, targets).total

        return flatten(quick_jit(jax.grad(total))(params))

    kept, again = (gradients(small(name, remat=remat)) for remat in (False, True))
    for path, gradient in kept.items():
        scale = np.abs(gradient).max() + 1e-3
        np.testing.assert_allclose(again[path] / scale, gradient / scale, rtol=0, atol=2e-3)


def test_anchors_begin_as_their_kind_says_and_fixed_centres_stay():
    class Learned(nn.Module):
        kind: str
        dtype = param_dtype = jnp.float32

        @nn.compact
        def __call__(self):
            return jax.nn.sigmoid(anchor_logits(self, 4000, self.kind))

    for kind in ("normal", "uniform", "fixed"):
        module = Learned(kind)
        params = module.init(jax.random.key(0))
        anchors = np.asarray(module.apply(params))
        # The sigmoid of a normal number stays away from 0 and 1; even numbers do not.
        spread = (anchors[:, :2].std(), anchors[:, 2:].std())
        wanted = 0.208 if kind == "normal" else 12**-0.5
        np.testing.assert_allclose(spread, (wanted, 0.208), rtol=0, atol=0.01)
        gradient = jax.grad(lambda p, m=module: m.apply(p).sum())(params)
        (table,) = jax.tree.leaves(gradient)
        assert np.any(table[:, :2]) == (kind != "fixed")
        assert np.all(table[:, 2:])


@pytest.mark.parametrize("name", ["dn", "dn_encoder_only"])
def test_a_models_epsilon_is_that_of_its_noised_boxes(name):
    assert small(name, epsilon=1e-5).labels.epsilon == 1e-5


def test_what_does_not_fit_together_is_refused_with_what_to_do():
    batch = images(noise(64, 64, 1), canvas=(64, 64))

    def shapes(model, *inputs, **options):
        return jax.eval_shape(functools.partial(model.init, **options), jax.random.key(0), *inputs)

    with pytest.raises(ValueError, match="two_stage needs refine=True"):
        shapes(small("deformable", two_stage=True), batch)
    model = small("dino", canvas="exact")
    half = Images(batch.pixels[:, :32], batch.mask[:, :32])
    with pytest.raises(ValueError, match="multiples of 64; got 32 × 64"):
        shapes(model, half)
    with pytest.raises(ValueError, match=r"at most 12 queries; got \(1, 13\)"):
        shapes(small("dino"), batch, proposal_index=jnp.zeros((1, 13), jnp.int32))

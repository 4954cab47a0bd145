"""Promises of the detectors with anchors: DINO, DAB-DETR, DN-DETR and their deformable forms."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.losses.criterion import FirstStage, FocalClasses, SetCriterion
from jaxseg.models import build
from jaxseg.models.dab_deformable_detr import dab_deformable_detr
from jaxseg.models.dab_detr import dab_detr
from jaxseg.models.deformable_detr import deformable_detr
from jaxseg.models.dino import dino
from jaxseg.models.dn_detr import encoder_only
from jaxseg.params import abstract_params, flatten
from jaxseg.structures import Images, Targets
from tests import weights
from tests.models.test_detr import images, noise
from tests.train.small import quick_jit

SMALL = {
    "depth": 18, "stem": 8, "width": 32, "num_heads": 4, "feedforward": 32, "encoder_layers": 1,
    "decoder_layers": 2, "num_queries": 12, "num_classes": 4,
}  # fmt: skip
BUILDERS = {
    "deformable": functools.partial(deformable_detr, dropout=0.0),
    "refine": functools.partial(deformable_detr, dropout=0.0, refine=True),
    "two_stage": functools.partial(deformable_detr, dropout=0.0, refine=True, two_stage=True),
    "dab": dab_detr,
    "dab_patterns": functools.partial(dab_detr, num_patterns=2),
    "dab_deformable": dab_deformable_detr,
    "dn": functools.partial(dab_detr, denoising=True),
    "dn_deformable": functools.partial(dab_deformable_detr, denoising=True),
    "dn_encoder_only": functools.partial(encoder_only, num_patterns=2),
    "dino": functools.partial(dino, dn_number=50),
    "dino_5scale": functools.partial(dino, dn_number=50, num_levels=5),
    "dino_pure": functools.partial(dino, dn_number=50, selection="pure"),
    "dino_static": functools.partial(dino, dn_number=0, selection="static"),
    "dino_unshared": functools.partial(dino, dn_number=50, shared_heads=False),
}
QUICK = ("two_stage", "dab_patterns", "dn_deformable", "dino")
DENOISING = ("dn", "dn_deformable", "dn_encoder_only", "dino")
CRITERION = SetCriterion(
    classes=FocalClasses(), giou_epsilon=1e-6, first_stage=FirstStage("interm"), denoising=True
)
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


def small(name, **fields):
    model = BUILDERS[name](**SMALL | fields)
    # as few blocks as there are kinds of them: compiling is what these tests spend time on
    return model.clone(backbone=model.backbone.clone(depths=(1, 1, 1, 1)))


def init(model):
    return weights.draw(model, images(noise(128, 128, 0), canvas=(128, 128)))


def some_targets(*counts, slots=5, seed=0):
    rng = np.random.default_rng(seed)
    b = len(counts)
    labels = rng.integers(0, 4, (b, slots))
    boxes = rng.uniform(0.2, 0.6, (b, slots, 4)).astype(np.float32)
    mask = np.arange(slots) < np.asarray(counts)[:, None]
    return jax.tree.map(jnp.asarray, Targets(labels, boxes, mask))


@pytest.mark.parametrize(("name", "count"), TRAINED.items())
def test_published_models_train_the_published_number_of_parameters(name, count):
    flat = flatten(abstract_params(build(name)))
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


def test_on_a_plain_transformer_an_image_has_the_result_it_has_alone():
    model = dino(**SMALL, vit="small", num_levels=5, image_size=128, canvas="exact")
    tiny = {"width": 16, "depth": 2, "num_heads": 2, "global_blocks": (1,), "window": 3}
    net = model.backbone.net.clone(**tiny)
    model = model.clone(backbone=model.backbone.clone(net=net))
    assert model.backbone.strides == (4, 8, 16, 32)
    params = weights.draw(model, images(noise(128, 128, 0), canvas=(128, 128)))
    run = quick_jit(model.apply)
    one, other = noise(90, 120, 1), noise(128, 70, 2)
    alone = run({"params": params}, images(one, canvas=(128, 128)))
    found = run({"params": params}, images(one, other, canvas=(128, 256)))
    np.testing.assert_allclose(found.boxes[:, :1], alone.boxes, rtol=0, atol=5e-6)
    np.testing.assert_allclose(found.logits[:, :1], alone.logits, rtol=0, atol=5e-5)
    # Five rows and seven columns of tokens, of which pooling leaves out the last.
    odd = noise(80, 112, 3)
    found = run({"params": params}, images(odd, canvas=(128, 128)))
    padded = quick_jit(model.clone(canvas="padded").apply)
    alone = padded({"params": params}, images(odd, canvas=(80, 112)))
    np.testing.assert_allclose(found.boxes, alone.boxes, rtol=0, atol=2e-5)
    with pytest.raises(ValueError, match="a model has one backbone; got swin='tiny' and vit='smal"):
        dino(swin="tiny", vit="small")


def test_an_exact_canvas_equals_the_original_without_padding():
    one = noise(96, 128, 1)
    exact, padded = small("dino", canvas="exact"), small("dino", canvas="padded")
    params = init(exact)
    wanted = quick_jit(padded.apply)({"params": params}, images(one, canvas=(96, 128)))
    found = quick_jit(exact.apply)({"params": params}, images(one, canvas=(128, 192)))
    np.testing.assert_allclose(found.boxes, wanted.boxes, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    "name",
    [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in sorted(BUILDERS)],
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


def test_targets_without_slots_are_images_without_objects():
    model = small("dino")
    params, batch = init(model), images(noise(64, 64, 1), noise(64, 50, 2), canvas=(64, 64))
    rngs = {"denoising": jax.random.key(1)}

    @quick_jit
    def losses(targets):
        return CRITERION(model.apply({"params": params}, batch, targets, True, rngs=rngs), targets)

    none, empty = losses(some_targets(0, 0, slots=0)), losses(some_targets(0, 0))
    assert none.terms.keys() == empty.terms.keys()
    np.testing.assert_allclose(none.total, empty.total, rtol=1e-5)


def test_padded_targets_and_their_order_change_no_loss():
    """With the same noise for the same objects."""
    model = small("dino", dn_number=0)
    params = init(model)
    batch = images(noise(64, 64, 1), noise(64, 50, 2), canvas=(64, 64))
    given = some_targets(3, 2)
    flipped = jax.tree.map(lambda x: x[:, ::-1], given)
    wider = jax.tree.map(lambda x: jnp.pad(x, [(0, 0), (0, 3)] + [(0, 0)] * (x.ndim - 2)), given)
    output = quick_jit(model.apply)({"params": params}, batch)
    score = quick_jit(CRITERION)
    losses = [score(output, targets).total for targets in (given, flipped, wider)]
    np.testing.assert_allclose(losses[1:], losses[0], rtol=1e-6)


def test_with_denoising_per_image_neighbours_change_nothing():
    model = small("dino", dn_per_image=True)
    params, both = init(model), some_targets(4, 1)
    batch = images(noise(64, 64, 1), noise(64, 64, 2), canvas=(64, 64))
    apply = quick_jit(
        lambda images, targets: model.apply(
            {"params": params}, images, targets, train=True, rngs={"denoising": jax.random.key(1)}
        )
    )
    together = apply(batch, both).extras["denoised"]
    other = jax.tree.map(lambda x: x.at[0].set(x[1]), (batch, both))
    beside = apply(*other).extras["denoised"]
    np.testing.assert_array_equal(together.groups, [12, 50])
    np.testing.assert_allclose(together.logits[:, 1], beside.logits[:, 1], rtol=0, atol=1e-4)


def test_looking_forward_once_stops_what_twice_lets_through():
    batch = images(noise(64, 64, 1), canvas=(64, 64))

    def gradients(twice):
        model = small("dino", look_forward_twice=twice, shared_heads=False, dn_number=0)

        def last_boxes(params):
            return model.apply({"params": params}, batch).boxes[-1].sum()

        return quick_jit(jax.grad(last_boxes))(init(model))

    once, twice = gradients(False), gradients(True)
    assert not np.any(once["bbox_embed_0"]["layer_2"]["kernel"])
    assert np.any(twice["bbox_embed_0"]["layer_2"]["kernel"])


def test_a_learned_anchor_size_begins_as_the_constant_one_and_learns():
    # Of all tokens, for those that are chosen may have no anchor.
    fixed = small("dino", propose_all=True)
    learned = fixed.clone(learned_anchor_size=True)
    batch, targets = images(noise(64, 96, 1), canvas=(64, 128)), some_targets(3)
    params = quick_jit(learned.init)(jax.random.key(0), batch)["params"]
    same = {name: part for name, part in params.items() if name != "two_stage_wh_embedding"}

    def anchors(model, params):
        return model.apply({"params": params}, batch).extras["proposals"].anchors

    np.testing.assert_allclose(anchors(learned, params), anchors(fixed, same), rtol=0, atol=1e-6)

    def loss(params):
        return CRITERION(learned.apply({"params": params}, batch), targets).total

    gradient = quick_jit(jax.grad(loss))(params)["two_stage_wh_embedding"]["embedding"]
    assert np.isfinite(gradient).all()
    assert (gradient != 0).all()


def test_every_token_can_be_asked_to_propose():
    chosen, every = small("dino"), small("dino", propose_all=True)
    params = init(chosen)
    batch, targets = images(noise(64, 96, 1), canvas=(64, 128)), some_targets(3)
    run = {m: quick_jit(m.apply)({"params": params}, batch) for m in (chosen, every)}
    few, all_of_them = (run[m].extras["first_stage"] for m in (chosen, every))
    index = run[every].extras["proposals"].index
    picked = np.take_along_axis(np.asarray(all_of_them.boxes), np.asarray(index)[..., None], 1)
    np.testing.assert_allclose(picked, few.boxes, rtol=0, atol=1e-6)
    np.testing.assert_allclose(run[every].boxes, run[chosen].boxes, rtol=0, atol=1e-5)
    assert all_of_them.boxes.shape[1] == 8 * 16 + 4 * 8 + 2 * 4 + 2
    assert np.isfinite(CRITERION(run[every], targets).total)


def test_forced_proposals_are_the_queries():
    model = small("dino", dn_number=0)
    params, batch = init(model), images(noise(64, 64, 1), canvas=(64, 64))
    run = quick_jit(lambda index: model.apply({"params": params}, batch, proposal_index=index))
    output = run(None)
    index = output.extras["proposals"].index[:, ::-1]
    forced = run(index)
    found, wanted = forced.extras["first_stage"], output.extras["first_stage"]
    np.testing.assert_array_equal(found.boxes, wanted.boxes[:, ::-1])


@pytest.mark.parametrize("kind", [deformable_detr, dino])
@pytest.mark.parametrize(
    ("num_levels", "strides"),
    [(1, [32]), (2, [16, 32]), (3, [8, 16, 32]), (4, [8, 16, 32, 64])],
)
def test_few_levels_are_the_coarsest(kind, num_levels, strides):
    model = kind(**SMALL, num_levels=num_levels)
    batch = images(noise(64, 128, 1), canvas=(64, 128))
    output = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), batch)[0])
    shapes = [mask.shape[1:] for mask in output.extras["encoded"].masks]
    assert shapes == [(64 // s, 128 // s) for s in strides]
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


def test_a_canvas_of_fewer_tokens_than_queries_has_fewer_queries():
    model = small("dino", num_queries=900, canvas="exact")
    params = init(model)
    output = quick_jit(model.apply)({"params": params}, images(noise(30, 40, 1), canvas=(64, 64)))
    assert output.boxes.shape == (2, 1, 85, 4)
    assert np.isfinite(output.boxes).all()


@pytest.mark.parametrize("name", ["dino", pytest.param("two_stage", marks=pytest.mark.slow)])
def test_on_an_exact_canvas_padding_fills_up_queries_and_is_seen_by_none(name):
    model = small(name, num_queries=100, canvas="exact")
    params, run = init(model), quick_jit(model.apply)
    alone = run({"params": params}, images(noise(64, 64, 1), canvas=(64, 64)))
    larger = run({"params": params}, images(noise(64, 64, 1), canvas=(64, 128)))
    assert (alone.boxes.shape[2], larger.boxes.shape[2]) == (85, 100)
    np.testing.assert_allclose(larger.boxes[:, :, :85], alone.boxes, rtol=0, atol=5e-6)
    np.testing.assert_allclose(larger.logits[:, :, :85], alone.logits, rtol=0, atol=5e-5)
    found = model.detections(larger, jnp.array([[64, 64]]))
    kept = found.scores > 0
    assert kept.sum() <= 85 * model.num_classes


@pytest.mark.parametrize(("size", "window"), [("tiny", 7), ("small", 7), ("base", 12)])
def test_a_swin_has_the_windows_of_its_largest_published_pretraining(size, window):
    assert dino(swin=size).backbone.window == window
    assert dino(swin=size, pretraining=224).backbone.window == 7


def test_suppression_leaves_one_detection_of_each_place():
    model = small("dino", nms_iou=0.5, num_select=40)
    params = init(model)
    output = quick_jit(model.apply)({"params": params}, images(noise(64, 64, 1), canvas=(64, 64)))
    found = model.detections(output, jnp.array([[64, 64]]))
    kept = np.isfinite(found.scores[0])
    assert 0 < kept.sum() < 40
    assert len(np.unique(np.round(found.boxes[0][kept], 3), axis=0)) == kept.sum()


def test_what_does_not_fit_together_is_refused_with_what_to_do():
    batch = images(noise(64, 64, 1), canvas=(64, 64))
    with pytest.raises(ValueError, match="two_stage needs refine=True"):
        init(small("deformable", two_stage=True))
    model = small("dino", canvas="exact")
    half = Images(batch.pixels[:, :32], batch.mask[:, :32])
    with pytest.raises(ValueError, match="multiples of 64; got 32 × 64"):
        model.init(jax.random.key(0), half)
    with pytest.raises(ValueError, match=r"at most 12 queries; got \(1, 13\)"):
        small("dino").init(jax.random.key(0), batch, proposal_index=jnp.zeros((1, 13), jnp.int32))

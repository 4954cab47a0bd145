"""Promises of DINO: its selection of queries, denoising and boxes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.models.dino import dino
from jaxseg.params import flatten
from tests import weights
from tests.models.small import CRITERION, SMALL, init, small, some_targets
from tests.models.test_detr import images, noise
from tests.quick import AS_SHIPPED, quick_jit


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
    # Two programs of other shapes round otherwise, which random weights enlarge.
    np.testing.assert_allclose(found.boxes[:, :1], alone.boxes, rtol=0, atol=2e-5)
    atol = 5e-5 * np.abs(alone.logits).max()
    np.testing.assert_allclose(found.logits[:, :1], alone.logits, rtol=0, atol=atol)
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


def test_losses_and_gradients_are_the_same_as_users_compile_them():
    """The other tests compile with the quick options."""
    model = small("dino")
    params, targets = init(model), some_targets(3, 1)
    batch = images(noise(64, 64, 1), noise(64, 50, 2), canvas=(64, 64))
    rngs = {"denoising": jax.random.key(1)}

    def total(params):
        output = model.apply({"params": params}, batch, targets, True, rngs=rngs)
        return CRITERION(output, targets).total

    step = jax.value_and_grad(total)
    wanted, wanted_gradient = quick_jit(step)(params)
    found, gradient = jax.jit(step, compiler_options=AS_SHIPPED)(params)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    ours, theirs = flatten(gradient), flatten(wanted_gradient)
    # Some are sums that cancel: their rounding is of what was summed.
    rounding = 1e-6 * max(abs(x).max() for x in theirs.values())
    for path, leaf in ours.items():
        atol = 1e-3 * abs(theirs[path]).max() + rounding
        np.testing.assert_allclose(leaf, theirs[path], rtol=0, atol=atol, err_msg=path)


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
    model = small("dino", dn_images=1)
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

        params = init(model)

        def last_boxes(first_head):
            whole = {"params": params | {"bbox_embed_0": first_head}}
            return model.apply(whole, batch).boxes[-1].sum()

        return quick_jit(jax.grad(last_boxes))(params["bbox_embed_0"])

    once, twice = gradients(False), gradients(True)
    assert not np.any(once["layer_2"]["kernel"])
    assert np.any(twice["layer_2"]["kernel"])


def test_a_learned_anchor_size_begins_as_the_constant_one_and_learns():
    # Of all tokens, for those that are chosen may have no anchor.
    fixed = small("dino", propose_all=True)
    learned = fixed.clone(learned_anchor_size=True)
    batch, targets = images(noise(64, 96, 1), canvas=(64, 128)), some_targets(3)
    params = quick_jit(learned.init)(jax.random.key(0), batch)["params"]
    size = params.pop("two_stage_wh_embedding")

    # Nothing but what is asked for is compiled.
    @functools.partial(quick_jit, static_argnums=0)
    def anchors(model, params):
        return model.apply({"params": params}, batch).extras["proposals"].anchors

    begun = anchors(learned, params | {"two_stage_wh_embedding": size})
    np.testing.assert_allclose(begun, anchors(fixed, params), rtol=0, atol=1e-6)

    def loss(size, params):
        whole = {"params": params | {"two_stage_wh_embedding": size}}
        return CRITERION(learned.apply(whole, batch), targets).total

    # The kernels that begin as zeros must be arguments: as constants of the program, XLA for CPUs
    # (jaxlib 0.10.2) sums products with them from memory that nobody has written.
    gradient = quick_jit(jax.grad(loss))(size, params)["embedding"]
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
    assert np.isfinite(quick_jit(CRITERION)(run[every], targets).total)


def test_forced_proposals_are_the_queries():
    model = small("dino", dn_number=0)
    params, batch = init(model), images(noise(64, 64, 1), canvas=(64, 64))
    run = quick_jit(lambda index: model.apply({"params": params}, batch, proposal_index=index))
    index = run(None).extras["proposals"].index
    one, turned = run(index), run(index[:, ::-1])
    for name, boxes in (("first_stage", lambda x: x.boxes), ("references", lambda x: x[0])):
        found, wanted = (boxes(output.extras[name]) for output in (turned, one))
        np.testing.assert_allclose(found, wanted[:, ::-1], rtol=0, atol=1e-6)


def test_a_canvas_of_fewer_tokens_than_queries_has_fewer_queries():
    model = small("dino", num_queries=900, canvas="exact")
    params = init(model)
    output = quick_jit(model.apply)({"params": params}, images(noise(30, 40, 1), canvas=(64, 64)))
    assert output.boxes.shape == (2, 1, 85, 4)
    assert np.isfinite(output.boxes).all()


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

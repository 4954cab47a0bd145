"""Promises of Grounding DINO: what it is told, and that neighbours do not matter."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.models import build
from jaxseg.models.grounding_dino import class_detections, class_scores, class_shares
from jaxseg.models.grounding_dino.fusion import Fusion
from jaxseg.params import abstract_params, count, flatten, unflatten
from jaxseg.structures import ABSENT, Captions, DetectorOutput, Features, Targets
from jaxseg.text.spans import encode_captions
from tests import weights
from tests.models.small_grounding import CRITERION, small
from tests.models.test_detr import images, noise
from tests.quick import quick_jit

TEXTS = ["a cat. hot dog.", "zebra."]


def told(tokenizer, texts, pad_to=None) -> Captions:
    return jax.tree.map(jnp.asarray, encode_captions(tokenizer, texts, pad_to=pad_to))


@pytest.fixture(scope="module")
def params(tokenizer):
    batch = images(noise(64, 64, 0), canvas=(64, 64))
    return weights.draw(small(), batch, told(tokenizer, TEXTS[:1]))


@functools.partial(quick_jit, static_argnames=("model", "train"))
def run(model, params, batch, captions, train=False, pairs=None):
    rngs = {"dropout": jax.random.key(0)}
    return model.apply({"params": params}, batch, captions, train=train, pairs=pairs, rngs=rngs)


def assert_same(found, wanted, rows, row=0):
    """The answers are equal in the wanted one's tokens, to the rounding of two programs."""
    tokens = wanted.logits.shape[-1]
    ours, theirs = found.logits[:, rows, :, :tokens], wanted.logits[:, row]
    # Two programs of other shapes round otherwise, which random weights enlarge.
    largest = np.abs(theirs, where=theirs > ABSENT, out=np.zeros_like(theirs)).max()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=5e-5 * largest)
    np.testing.assert_allclose(found.boxes[:, rows], wanted.boxes[:, row], rtol=0, atol=2e-5)
    assert (np.asarray(found.logits[:, rows, :, tokens:]) == ABSENT).all()


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("grounding_dino.swin_t", 172_839_682), ("grounding_dino.swin_b", 232_903_808)],
)
def test_published_models_have_the_published_number_of_parameters(name, parameters):
    assert count(abstract_params(build(name))) == parameters


def test_an_image_and_its_caption_have_the_answer_they_have_alone(params, tokenizer):
    model = small()
    one, other = noise(61, 90, 1), noise(96, 40, 2)
    alone = run(model, params, images(one, canvas=(64, 96)), told(tokenizer, TEXTS[1:]))
    both = images(other, one, canvas=(96, 128))
    together = run(model, params, both, told(tokenizer, TEXTS, pad_to=16))
    assert_same(together, alone, rows=1)


def test_an_exact_canvas_equals_the_original_without_padding(params, tokenizer):
    one, captions = noise(61, 90, 1), told(tokenizer, TEXTS[:1])
    exact = run(small(), params, images(one, canvas=(96, 96)), captions)
    padded = run(small(canvas="padded"), params, images(one, canvas=(61, 90)), captions)
    assert_same(exact, padded, rows=0)


def test_pairs_are_answered_as_each_of_them_alone(params, tokenizer):
    model = small()
    batch = images(noise(64, 64, 1), noise(64, 50, 2), canvas=(64, 64))
    captions = told(tokenizer, [*TEXTS, "dog."])
    pairs = jnp.asarray([(1, 2), (0, 0), (0, 2), (1, 1), (1, 0)])
    found = run(model, params, batch, captions, pairs=pairs)
    chosen = jax.tree.map(lambda x: x[pairs[:, 0]], batch)
    each = run(model, params, chosen, jax.tree.map(lambda x: x[pairs[:, 1]], captions))
    for row in range(len(pairs)):
        assert_same(found, each, rows=row, row=row)


@functools.cache
def _features(model):
    @quick_jit
    def features(params, batch, captions):
        return model.apply({"params": params}, batch, captions).extras["text"].features

    return features


def test_words_see_their_own_phrase_at_every_level_but_the_words(params, tokenizer):
    """The second phrase is another; what is made of the first before the image is seen?"""
    batch = images(noise(64, 64, 0), noise(64, 64, 0), canvas=(64, 64))
    captions = told(tokenizer, ["red cat. dog.", "red cat. bus."])
    phrase = slice(1, 4)
    changes, spread = {}, {}
    for level in ("sub_sentence", "word", "sentence"):
        found = np.asarray(_features(small(text_level=level))(params, batch, captions))
        changes[level] = abs(found[0, phrase] - found[1, phrase]).max()
        spread[level] = abs(found[0, phrase] - found[0, 1]).max()
    assert changes["sub_sentence"] < 1e-5
    assert changes["sentence"] < 1e-5
    assert changes["word"] > 1e-3
    # A sentence is one feature, which stands at all its tokens.
    assert spread["sentence"] < 1e-5 < 1e-2 < min(spread["sub_sentence"], spread["word"])


def test_without_fusion_and_text_attention_words_only_choose_and_name(params, tokenizer):
    """The image's memory and the boxes of given proposals do not depend on the caption."""
    model = small(fusion=False, text_attention=False)
    flat = flatten(abstract_params(model))
    assert not any("fusion" in path or "ca_text" in path for path in flat)
    kept = {path: leaf for path, leaf in flatten(params).items() if path in flat}
    assert kept.keys() == flat.keys()
    batch = images(noise(64, 64, 1), noise(64, 64, 1), canvas=(64, 64))
    index = jnp.tile(jnp.arange(11), (2, 1))
    found = quick_jit(model.apply)(
        {"params": unflatten(kept)}, batch, told(tokenizer, TEXTS), proposal_index=index
    )
    np.testing.assert_allclose(found.memory[0], found.memory[1], atol=1e-5)
    np.testing.assert_allclose(found.boxes[:, 0], found.boxes[:, 1], atol=1e-5)
    assert abs(found.logits[:, 0, :, 1:3] - found.logits[:, 1, :, 1:3]).max() > 1e-2


def test_static_queries_have_no_proposals(tokenizer):
    model = small(selection="static")
    flat = flatten(abstract_params(model))
    assert not any(path.startswith(("proposals/", "enc_out_")) for path in flat)
    assert flat["refpoint_embed/embedding"].shape == (11, 4)
    batch, captions = images(noise(64, 64, 0), canvas=(64, 64)), told(tokenizer, TEXTS[:1])
    drawn = weights.draw(model, batch, captions)
    output = run(model, drawn, batch, captions)
    assert "first_stage" not in output.extras
    terms = CRITERION(output, some_targets([2], captions)).terms
    assert not any(name.endswith("interm") for name in terms)


def some_targets(counts, captions: Captions, slots=4) -> Targets:
    """So many objects in each image, that the caption's second and third tokens name."""
    rng = np.random.default_rng(3)
    b, s = captions.ids.shape
    tokens = np.zeros((b, slots, s), bool)
    tokens[:, :, 1:3] = True
    mask = np.arange(slots) < np.asarray(counts)[:, None]
    boxes = rng.uniform(0.2, 0.6, (b, slots, 4)).astype(np.float32)
    targets = Targets(np.zeros((b, slots), np.int32), boxes, mask, tokens=tokens)
    return jax.tree.map(jnp.asarray, targets)


def test_images_without_objects_have_finite_losses_and_gradients(params, tokenizer):
    model, captions = small(), told(tokenizer, [TEXTS[0], "."], pad_to=8)
    batch = images(noise(64, 64, 1), noise(64, 50, 2), canvas=(64, 64))
    targets = some_targets([2, 0], captions)
    nothing = targets.replace(mask=jnp.zeros_like(targets.mask))

    @quick_jit
    @jax.value_and_grad
    def total(params, targets):
        rngs = {"dropout": jax.random.key(0)}
        output = model.apply({"params": params}, batch, captions, train=True, rngs=rngs)
        return CRITERION(output, targets).total

    for wanted in (targets, nothing):
        value, gradient = total(params, wanted)
        assert np.isfinite(value)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
        # Nothing found is still said of every token.
        assert abs(gradient["feat_map"]["kernel"]).max() > 0


def test_on_an_exact_canvas_padding_does_not_reach_the_words_however_large_scores_are():
    rng = np.random.default_rng(0)
    image, text = (jnp.asarray(rng.normal(size=(1, n, 16)), jnp.float32) for n in (20, 5))
    fusion = Fusion(num_heads=2, width=16)
    masks = (jnp.arange(20)[None] < 11, jnp.ones((1, 5), bool))
    drawn = weights.draw(fusion, image, text, *masks)
    for name in ("v_proj", "l_proj"):
        drawn["attn"][name]["kernel"] = drawn["attn"][name]["kernel"] * 300
    wanted = fusion.apply({"params": drawn}, image[:, :11], text, masks[0][:, :11], masks[1], True)
    found = fusion.apply({"params": drawn}, image, text, *masks, True)
    np.testing.assert_allclose(found[1], wanted[1], atol=1e-5)
    np.testing.assert_allclose(found[0][:, :11], wanted[0], atol=1e-5)


def test_rematerialised_layers_compute_the_same(params, tokenizer):
    batch, captions = images(noise(64, 64, 1), canvas=(64, 64)), told(tokenizer, TEXTS[:1])
    wanted = run(small(), params, batch, captions)
    assert_same(run(small(remat=True), params, batch, captions), wanted, rows=0)


def test_bfloat16_keeps_logits_and_boxes_in_float32(params, tokenizer):
    model = small(dtype=jnp.bfloat16)
    batch, captions = images(noise(64, 64, 1), canvas=(64, 64)), told(tokenizer, TEXTS[:1])
    output = run(model, params, batch, captions)
    assert output.logits.dtype == output.boxes.dtype == jnp.float32
    assert np.isfinite(output.logits).all()


def test_mistakes_say_what_is_allowed(params, tokenizer):
    batch = images(noise(64, 64, 1), noise(64, 64, 2), canvas=(64, 64))
    with pytest.raises(ValueError, match="2 images and 1 captions: say with `pairs`"):
        small().apply({"params": params}, batch, told(tokenizer, TEXTS[:1]))
    with pytest.raises(ValueError, match=r"targets.tokens is None"):
        CRITERION(run(small(), params, batch, told(tokenizer, TEXTS)),
                  some_targets([1, 1], told(tokenizer, TEXTS)).replace(tokens=None))  # fmt: skip


def test_a_class_scores_the_mean_of_its_tokens():
    p = np.asarray([[0.5, 0.8, 0.4, 0.1]])
    logits = jnp.asarray(np.log(p / (1 - p))[None], jnp.float32)
    tokens = jnp.asarray([[0, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]], bool)
    scores = class_scores(logits, class_shares(tokens))
    np.testing.assert_allclose(scores[0, 0], [0.6, 0.1, 0.0], atol=1e-5)
    output = DetectorOutput(
        logits=logits[None],
        boxes=jnp.asarray([[[[0.5, 0.5, 0.2, 0.4]]]]),
        states=jnp.zeros((1, 1, 1, 0)),
        memory=jnp.zeros((1, 0, 0)),
        features=Features((), ()),
        position=jnp.zeros((1, 0, 0)),
    )
    found = class_detections(output, class_shares(tokens), jnp.asarray([[100, 200]]), 2)
    assert found.labels.tolist() == [[0, 1]]
    np.testing.assert_allclose(found.boxes[0, 0], [80, 30, 120, 70], atol=1e-3)

"""Promises of CLIP's towers and of what prepares their images; parity is the goldens' business."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxseg.checkpoints import from_pretrained, save_pretrained
from jaxseg.models import build
from jaxseg.models.clip.clip import class_attention, similarity
from jaxseg.params import flatten
from jaxseg.predict.clip_image import MEAN, STD, clip_pixels
from jaxseg.pretrained import ImageConfig
from jaxseg.verify_command import verify
from tests.quick import quick_jit
from tests.shapes import flat_shapes
from tests.small_detr import assert_same, drawn

RNG = np.random.default_rng(0)
COUNTS = {
    "clip.vit_b32": 151_277_313,
    "clip.vit_b16": 149_620_737,
    "clip.vit_l14": 427_616_513,
    "clip.vit_l14_336": 427_944_193,
}
END = 299


@pytest.fixture(scope="module")
def tiny():
    model = build("clip.tiny")
    return model, drawn(model)


@pytest.fixture(scope="module")
def pixels():
    return jnp.asarray(RNG.normal(size=(2, 64, 64, 3)), jnp.float32)


def texts(*lengths, context=16, padding=0):
    ids = np.full((len(lengths), context), padding, np.int32)
    for row, length in enumerate(lengths):
        ids[row, :length] = np.random.default_rng(row).integers(1, END, length)
        ids[row, length - 1] = END
    return jnp.asarray(ids)


def run(tiny, method, *inputs):
    model, params = tiny
    return quick_jit(lambda *x: model.apply({"params": params}, *x, method=method))(*inputs)


@pytest.mark.parametrize(("name", "count"), COUNTS.items())
def test_published_models_have_the_published_number_of_parameters(name, count):
    shapes = flat_shapes(build(name))
    assert sum(np.prod(leaf.shape, dtype=int) for leaf in shapes.values()) == count


def test_the_towers_alone_are_those_of_the_whole(tiny, pixels):
    ids = texts(4, 16, 9)
    both = run(tiny, None, pixels, ids)
    image, text = run(tiny, "encode_image", pixels), run(tiny, "encode_text", ids)
    assert both.logits.shape == (2, 3)
    assert both.text.hidden.shape == (2, 3, 16, 64)
    assert both.image.tokens.shape == both.image.embedded.shape == (2, 17, 64)
    np.testing.assert_allclose(both.image.features, image.features, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(both.text.features, text.features, rtol=1e-4, atol=1e-5)
    scale = np.exp(tiny[1]["logit_scale"])
    cosine = similarity(image.features, text.features)
    np.testing.assert_allclose(both.logits, scale * cosine, rtol=1e-4, atol=1e-5)
    assert np.abs(cosine).max() <= 1 + 1e-6


@pytest.mark.parametrize("padding", [0, 7, END])
def test_what_stands_behind_a_texts_end_changes_nothing(tiny, padding):
    wanted = run(tiny, "encode_text", texts(5, 9)).features
    padded = run(tiny, "encode_text", texts(5, 9, padding=padding)).features
    np.testing.assert_allclose(padded, wanted, rtol=1e-5, atol=1e-5)
    cut = run(tiny, "encode_text", texts(5, 9, context=9)).features
    np.testing.assert_allclose(cut, wanted, rtol=1e-4, atol=1e-4)


def test_no_token_sees_those_after_it(tiny):
    ids = texts(16)
    other = ids.at[0, 10].set(1 + ids[0, 10] % 200)
    a, b = (run(tiny, "encode_text", x).hidden[:, 0] for x in (ids, other))
    np.testing.assert_array_equal(a[:, :10], b[:, :10])
    assert np.abs(a[:, 10:] - b[:, 10:]).max((0, 2)).min() > 1e-4


def test_patches_outside_reach_the_class_token_only_through_those_inside():
    inside = jnp.asarray([[[True, False], [False, True]]])
    wanted = [
        [0, 1, 0, 0, 1],
        [1, 1, 1, 1, 1],
        [1, 1, 1, 1, 1],
        [1, 1, 1, 1, 1],
        [1, 1, 1, 1, 1],
    ]
    np.testing.assert_array_equal(class_attention(inside)[0], np.asarray(wanted, bool))


def test_an_embedding_of_a_part_differs_in_its_last_block_alone(tiny, pixels):
    inside = jnp.zeros((2, 4, 4), bool).at[:, 1:3, 1:3].set(True)
    whole, part = run(tiny, "encode_image", pixels), run(tiny, "encode_image", pixels, inside)
    np.testing.assert_allclose(part.tokens[:, 1:], whole.tokens[:, 1:], rtol=1e-4, atol=1e-4)
    assert np.abs(part.features - whole.features).max() > 1e-2


def test_the_likeness_has_gradients_in_every_parameter(tiny, pixels):
    model, params = tiny

    def loss(params):
        logits = model.apply({"params": params}, pixels, texts(5, 9)).logits
        return -jax.nn.log_softmax(logits)[jnp.arange(2), jnp.arange(2)].mean()

    gradients = quick_jit(jax.grad(loss))(params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.isfinite(leaf).all(), path
        # A bias that all keys share changes no attention.
        if "k_proj" not in str(path) or "bias" not in str(path):
            assert np.abs(leaf).max() > 0, path


def test_at_half_precision_logits_are_float32():
    model = build("clip.tiny", dtype=jnp.bfloat16)
    inputs = (jnp.zeros((1, 64, 64, 3)), texts(3))
    output = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), *inputs)[0])
    assert output.logits.dtype == jnp.float32
    assert output.image.features.dtype == output.text.hidden.dtype == jnp.bfloat16


def test_inputs_of_another_size_are_refused(tiny, pixels):
    with pytest.raises(ValueError, match=r"images are 64 × 64; got 32 × 64.*clip_pixels"):
        run(tiny, "encode_image", pixels[:, :32])
    with pytest.raises(ValueError, match="at most 16 tokens; got rows of 17"):
        run(tiny, "encode_text", texts(3, context=17))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_size": 60}, "multiple of the patch; got 60 and 16"),
        ({"activation": "relu"}, "one of quick_gelu, gelu; got 'relu'"),
    ],
)
def test_models_that_do_not_exist_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        build("clip.tiny", **fields)


def test_weights_are_saved_loaded_and_verified(tmp_path, tiny):
    model, params = tiny
    image = ImageConfig(MEAN, STD, 64, 64)
    save_pretrained(tmp_path / "clip", "clip.tiny", {}, params, image=image)
    loaded = from_pretrained(tmp_path / "clip")
    assert_same(flatten(loaded.params), flatten(params))
    assert (loaded.model, loaded.image) == (model, image)
    drifts = verify(tmp_path / "clip")
    assert all(drift.ok for drift in drifts)
    names = {drift.name for drift in drifts}
    assert {"image/block_1", "text/block_0", "text/norm_final alone", "output logits"} <= names


def test_a_wrong_epsilon_is_found_by_the_probe(tmp_path, tiny):
    save_pretrained(tmp_path / "clip", "clip.tiny", {}, tiny[1])
    config = tmp_path / "clip" / "config.json"
    config.write_text(config.read_text().replace('"kwargs": {}', '"kwargs": {"epsilon": 1e-6}'))
    bad = {drift.name for drift in verify(tmp_path / "clip") if not drift.ok}
    assert {"image/norm_pre alone", "text/block_0/norm1 alone"} <= bad


@pytest.mark.parametrize("size", [(48, 81), (81, 48), (33, 33), (32, 57), (20, 25)])
def test_pixels_are_a_square_out_of_the_middle(size):
    image = RNG.integers(0, 256, (*size, 3), dtype=np.uint8)
    found = clip_pixels([image], 32)
    height, width = size
    scale = 32 / min(size)
    resized = Image.fromarray(image)
    if min(size) != 32:
        sides = (int(width * 32 / min(size)), int(height * 32 / min(size)))
        resized = resized.resize(sides, Image.Resampling.BICUBIC)
    left, top = (int(round((side - 32) / 2)) for side in resized.size)  # noqa: RUF046
    square = np.array(resized)[top : top + 32, left : left + 32] / 255
    assert found.dtype == np.float32
    assert abs(scale * max(size) - max(resized.size)) < 1
    np.testing.assert_allclose(found[0], (square - MEAN) / STD, rtol=1e-5, atol=1e-5)


def test_pixels_of_several_images_are_a_batch():
    images = [np.zeros((9, 7), np.uint8), Image.new("RGB", (50, 40), (255, 255, 255))]
    pixels = clip_pixels(images, 8)
    assert pixels.shape == (2, 8, 8, 3)
    np.testing.assert_allclose(pixels[0, 0, 0], -np.asarray(MEAN) / STD, rtol=1e-5)
    np.testing.assert_allclose(pixels[1, 0, 0], (1 - np.asarray(MEAN)) / STD, rtol=1e-5)
    assert clip_pixels([], 8).shape == (0, 8, 8, 3)

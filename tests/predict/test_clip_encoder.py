"""CLIP's encoder for users: features are those of the model, however many are asked for."""

import jax
import numpy as np
import pytest
from PIL import Image

from jaxseg.checkpoints import save_pretrained
from jaxseg.errors import UserError
from jaxseg.models import build
from jaxseg.predict import ClipEncoder, clip_pixels
from jaxseg.pretrained import ImageConfig
from jaxseg.text.bpe import BytePairs
from tests.predict.tiny import tiny_detr
from tests.small_detr import drawn
from tests.vocabulary import package_file

FIELDS = {"vocabulary": 49408}
CONFIG = ImageConfig((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
RNG = np.random.default_rng(3)
SIZES = [(64, 64), (90, 70), (40, 160), (65, 64), (200, 300)]
IMAGES = [RNG.integers(0, 256, (*size, 3), np.uint8) for size in SIZES]
TEXTS = ["a photo of a cat", "zebra", "", "two dogs & a ball", "room 1024"]


def merges():
    return package_file("open_clip/bpe_simple_vocab_16e6.txt.gz", "open_clip_torch", "3.3.0")


@pytest.fixture(scope="module")
def weights():
    model = build("clip.tiny", **FIELDS)
    return model, drawn(model), BytePairs(merges())


@pytest.fixture(scope="module")
def encoder(weights):
    return ClipEncoder(*weights, CONFIG, batch_size=4)


@pytest.fixture(scope="module")
def logits(weights):
    """What the model itself says of everything, prepared by hand."""
    model, params, tokens = weights
    pixels = clip_pixels(IMAGES, 64, CONFIG.mean, CONFIG.std)
    with jax.default_matmul_precision("highest"):
        return jax.jit(model.apply)({"params": params}, pixels, tokens(TEXTS, 16)).logits


def test_features_have_length_one_and_are_alike_alone_and_in_batches(encoder):
    for encode, things in ((encoder.images, IMAGES), (encoder.texts, TEXTS)):
        found = encode(things)
        assert (found.shape, found.dtype) == ((5, 32), np.float32)
        np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1, atol=1e-6)
        np.testing.assert_allclose(encode(things[::-1])[::-1], found, atol=1e-5)
        for one, row in zip(things, found, strict=True):
            np.testing.assert_allclose(encode(one), row[None], atol=1e-5)
        assert np.ptp(found, axis=0).max() > 1e-2, "features must differ for this to mean anything"


def test_scores_are_cosines_and_shares_those_of_the_models_logits(encoder, weights, logits):
    scale = np.exp(weights[1]["logit_scale"])
    scores = encoder.scores(IMAGES, TEXTS)
    np.testing.assert_allclose(scale * scores, logits, atol=1e-4)
    np.testing.assert_allclose(scores, encoder.images(IMAGES) @ encoder.texts(TEXTS).T, atol=1e-6)
    shares = encoder.classify(IMAGES, TEXTS)
    np.testing.assert_allclose(shares.sum(-1), 1, atol=1e-6)
    np.testing.assert_allclose(shares, jax.nn.softmax(logits, axis=-1), atol=1e-4)
    assert encoder.classify(IMAGES[0], "zebra").tolist() == [[1]]


def test_few_programs_serve_any_number_of_images_and_texts(encoder):
    compiled = []

    def listen(event: str, _: float, **__) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    for count in (1, 2, 4):
        encoder.scores(IMAGES[:count], TEXTS[:count])
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        for count in (3, 5):
            encoder.classify(IMAGES[:count], TEXTS[:count])
        assert not compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_files_and_pictures_are_images(encoder, tmp_path):
    Image.fromarray(IMAGES[1]).save(tmp_path / "a.png")
    wanted = encoder.images(IMAGES[1])
    for image in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(IMAGES[1])):
        np.testing.assert_allclose(encoder.images(image), wanted, atol=1e-5)


def test_nothing_has_no_features_and_no_shares(encoder):
    assert encoder.images([]).shape == encoder.texts([]).shape == (0, 32)
    assert encoder.scores([], TEXTS).shape == (0, 5)
    assert encoder.classify([], TEXTS).shape == (0, 5)
    assert encoder.classify(IMAGES[0], "").shape == (1, 1)
    with pytest.raises(UserError, match="one of several texts; got none"):
        encoder.classify(IMAGES, [])


def test_a_text_that_is_too_long_is_told_by_its_place_or_cut(encoder):
    texts = [*TEXTS, "word " * 20]
    with pytest.raises(UserError, match=r"text 5, 'word .* has 22 tokens .* and 16 fit"):
        encoder.texts(texts)
    cut = encoder.texts(texts, truncate=True)
    np.testing.assert_allclose(cut[5:], encoder.texts("word " * 14), atol=1e-5)


def test_a_folder_of_weights_and_a_vocabulary_are_loaded(encoder, weights, tmp_path):
    save_pretrained(tmp_path / "clip", "clip.tiny", FIELDS, weights[1], image=CONFIG, probe=False)
    loaded = ClipEncoder.from_pretrained(tmp_path / "clip", vocabulary=merges(), batch_size=2)
    assert (loaded.mean, loaded.std, loaded.batch_size) == (CONFIG.mean, CONFIG.std, 2)
    np.testing.assert_allclose(
        loaded.scores(IMAGES, TEXTS), encoder.scores(IMAGES, TEXTS), atol=1e-5
    )
    with pytest.raises(UserError, match=r"bpe_simple_vocab_16e6\.txt\.gz"):
        ClipEncoder.from_pretrained(tmp_path / "clip")


def test_what_is_no_clip_or_another_vocabulary_is_refused(weights):
    _, params, tokens = weights
    with pytest.raises(UserError, match=r"compared by a CLIP; got a Detr: take clip\.vit_b32"):
        ClipEncoder(*tiny_detr(), tokens)
    with pytest.raises(UserError, match="has 49408 tokens and the model knows 300"):
        ClipEncoder(build("clip.tiny"), params, tokens)
    with pytest.raises(UserError, match="batch_size must be 1 or more; got 0"):
        ClipEncoder(*weights, batch_size=0)

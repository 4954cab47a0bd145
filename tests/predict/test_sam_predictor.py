"""Segment Anything's predictor: an answer depends on its image and prompt alone."""

import jax
import numpy as np
import pytest
from PIL import Image

from jaxseg.errors import UserError
from jaxseg.models.detr import tiny as tiny_detr
from jaxseg.predict import Prompt, SamPredictor
from tests.predict.small_sam import small_sam

RNG = np.random.default_rng(3)
IMAGES = [RNG.integers(0, 256, (*size, 3), np.uint8) for size in ((96, 64), (50, 128), (40, 40))]
PROMPTS = [
    Prompt(points=[[10, 20]], labels=[1]),
    Prompt(points=[[10, 20], [30, 5], [33, 30]], labels=[1, 0, 1]),
    Prompt(box=[3, 4, 30, 25]),
    Prompt(points=[[12, 12]], labels=[0], box=[3, 4, 30, 25]),
    Prompt(points=[[12, 12]], labels=[1], mask=RNG.normal(size=(32, 32))),
    Prompt(mask=RNG.normal(size=(1, 32, 32))),
    Prompt(),
]


@pytest.fixture(scope="module")
def predictor():
    return SamPredictor(*small_sam())


def assert_same(found, wanted):
    scale = np.abs(wanted.low_res).max()
    np.testing.assert_allclose(found.low_res, wanted.low_res, rtol=0, atol=2e-5 * scale)
    np.testing.assert_allclose(found.masks, wanted.masks, rtol=0, atol=2e-5 * scale)
    np.testing.assert_allclose(found.iou, wanted.iou, rtol=0, atol=2e-5)


def alone(predictor, image, prompt, **options):
    predictor.set_image(image)
    answer = predictor.predict(prompt.points, prompt.labels, prompt.box, prompt.mask, **options)
    predictor.reset_image()
    return answer


def test_prompts_of_every_kind_together_are_answered_as_alone(predictor):
    predictor.set_image(IMAGES[0])
    together = predictor.predict_all(PROMPTS, return_logits=True)
    backwards = predictor.predict_all(PROMPTS[::-1], return_logits=True)[::-1]
    for prompt, found, turned in zip(PROMPTS, together, backwards, strict=True):
        wanted = alone(predictor, IMAGES[0], prompt, return_logits=True)
        assert_same(found, wanted)
        assert_same(turned, wanted)
    spread = np.ptp([answer.masks.mean() for answer in together])
    assert spread > 1e-2, "the answers must differ for the test to mean anything"


def test_images_in_a_batch_are_answered_as_alone(predictor):
    embedded = predictor.encode(IMAGES)
    prompts = [PROMPTS[:3], [], [PROMPTS[3]]]
    answers = predictor.segment(embedded, prompts, multimask_output=False, return_logits=True)
    assert [len(sets) for sets in answers] == [3, 0, 1]
    for image, sets, found in zip(IMAGES, prompts, answers, strict=True):
        for prompt, answer in zip(sets, found, strict=True):
            options = {"multimask_output": False, "return_logits": True}
            assert_same(answer, alone(predictor, image, prompt, **options))
            assert answer.masks.shape == (1, *image.shape[:2])


def test_masks_are_where_logits_are_above_zero_and_serve_as_prompts(predictor):
    predictor.set_image(IMAGES[0])
    first = predictor.predict([[10, 20]], [1])
    logits = predictor.predict([[10, 20]], [1], return_logits=True)
    assert first.masks.dtype == bool
    np.testing.assert_array_equal(first.masks, logits.masks > 0)
    best = first.iou.argmax()
    masks, iou, low_res = predictor.predict(
        [[10, 20]], [1], mask_input=first.low_res[best][None], multimask_output=False
    )
    assert masks.shape == (1, 96, 64)
    assert low_res.shape == (1, 32, 32)
    assert np.abs(iou - first.iou[best]) > 0


def test_few_programs_serve_prompts_of_all_counts(predictor):
    predictor.set_image(IMAGES[0])
    for count in (5, 6, 7, 8):
        predictor.predict_all([PROMPTS[0]] * count)
    before = predictor._decode._cache_size()
    predictor.predict_all([PROMPTS[0]] * 5)
    predictor.set_image(IMAGES[1])
    predictor.predict_all([PROMPTS[0]] * 7)
    assert predictor._decode._cache_size() == before
    assert predictor._encode._cache_size() <= 2  # one image, and the batch of another test


@pytest.mark.parametrize("size", [(1, 1), (1, 90), (3000, 4000), (333, 17)])
def test_images_of_any_size_have_masks_of_their_size(predictor, size):
    image = np.full((*size, 3), 90, np.uint8)
    answer = alone(predictor, image, Prompt(points=[[0, 0]], labels=[1]))
    assert answer.masks.shape == (3, *size)


def test_grey_transparent_deep_and_turned_images_are_the_same_picture(predictor, tmp_path):
    grey = IMAGES[2][..., 0]
    Image.fromarray(np.rot90(grey, 1)).save(tmp_path / "turned.png", exif=_turned())
    rgb = np.repeat(grey[..., None], 3, -1)
    alpha = np.concatenate([rgb, np.full_like(rgb[..., :1], 7)], -1)
    same = [grey, alpha, grey.astype(np.uint16) * 257, tmp_path / "turned.png"]
    wanted = alone(predictor, rgb, PROMPTS[0], return_logits=True)
    for image in same:
        assert_same(alone(predictor, image, PROMPTS[0], return_logits=True), wanted)
    predictor.set_image(IMAGES[0][..., ::-1], image_format="BGR")
    blue = predictor.predict([[10, 20]], [1], return_logits=True)
    assert_same(blue, alone(predictor, IMAGES[0], PROMPTS[0], return_logits=True))


def _turned():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    return exif


def test_the_embedding_is_kept_until_it_is_reset(predictor):
    predictor.set_image(IMAGES[0])
    assert predictor.get_image_embedding().shape == (1, 8, 8, 32)
    predictor.reset_image()
    with pytest.raises(UserError, match="no image is set: call set_image first"):
        predictor.get_image_embedding()
    with pytest.raises(UserError, match="no image is set"):
        predictor.predict([[1, 1]], [1])


def test_an_image_that_cannot_be_read_is_not_answered_for_by_another(predictor, tmp_path):
    predictor.set_image(IMAGES[0])
    with pytest.raises(UserError, match="none"):
        predictor.set_image(tmp_path / "none.png")
    with pytest.raises(UserError, match="no image is set"):
        predictor.predict([[1, 1]], [1])


def test_a_model_of_small_patches_takes_its_own_masks():
    predictor = SamPredictor(*small_sam(patch=8))
    predictor.set_image(IMAGES[0])
    first = predictor.predict([[10, 20]], [1])
    assert first.low_res.shape == (3, 64, 64)
    again = predictor.predict([[10, 20]], [1], mask_input=first.low_res[0], return_logits=True)
    assert again.masks.shape == (3, 96, 64)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"point_coords": [[1, 1]]}, r"points came without labels: points \(n, 2\)"),
        ({"point_labels": [1]}, "labels came without points"),
        (
            {"point_coords": [1, 1], "point_labels": [1]},
            r"must be \(n, 2\), x before y; got \(2,\)",
        ),
        ({"point_coords": [[1, 1]], "point_labels": [1, 0]}, r"shape \(1,\); got \(2,\)"),
        ({"point_coords": [[1, 1]], "point_labels": [3]}, r"1 \(foreground\).*; got 3"),
        (
            {"point_coords": [[70, 3]], "point_labels": [1]},
            r"x in 0\.\.64 and y in 0\.\.96; got \[70\.0, 3\.0\]",
        ),
        ({"point_coords": [["a", 1]], "point_labels": [1]}, "points must be numbers"),
        ({"point_coords": [[np.nan, 1]], "point_labels": [1]}, "points must be finite; got nan"),
        ({"box": [10, 3, 2, 9]}, r"first corner must be above and left.*got \[10\.0, 3\.0"),
        ({"box": [2, 3, 2, 9]}, "first corner must be above and left"),
        ({"box": [64, 3, 70, 9]}, r"must overlap the image, x in 0\.\.64.*; got \[64\.0, 3\.0"),
        ({"box": [-9, -9, -1, -1]}, "must overlap the image"),
        ({"point_coords": np.zeros((0, 2)), "point_labels": []}, "one or more; got none"),
        ({"box": [[1, 1, 2, 2], [1, 1, 3, 3]]}, r"a box must be \(4,\).*; got \(2, 4\)"),
        ({"mask_input": np.zeros((96, 64))}, r"must be \(32, 32\), .*; got \(96, 64\)"),
    ],
)
def test_a_prompt_that_cannot_be_meant_is_refused(predictor, given, message):
    predictor.set_image(IMAGES[0])
    with pytest.raises(UserError, match=message):
        predictor.predict(**given)


def test_what_does_not_fit_the_predictor_is_refused(predictor):
    with pytest.raises(UserError, match="2 images need as many lists of prompts; got 1"):
        predictor.segment(predictor.encode(IMAGES[:2]), [PROMPTS])
    with pytest.raises(UserError, match="a list of prompts for each image"):
        predictor.segment(predictor.encode(IMAGES[:2]), PROMPTS[:2])
    with pytest.raises(UserError, match="give at least one image"):
        predictor.encode([])
    with pytest.raises(UserError, match="image_format must be 'RGB' or 'BGR'; got 'HSV'"):
        predictor.set_image(IMAGES[0], "HSV")
    with pytest.raises(UserError, match="'BGR' is for arrays; a Image is read as RGB anyway"):
        predictor.set_image(Image.fromarray(IMAGES[0]), "BGR")
    with pytest.raises(UserError, match="too narrow: its short side"):
        predictor.set_image(np.zeros((1, 4000, 3), np.uint8))
    with pytest.raises(UserError, match="need a Segment Anything model; got a Detr"):
        SamPredictor(tiny_detr(), {})


def test_the_model_computes_under_jit_vmap_and_grad():
    model, params = small_sam()
    maps = jax.random.normal(jax.random.key(0), (2, 8, 8, 32))
    from jaxseg.structures import Prompts

    points = jax.numpy.asarray([[[[5.0, 6.0]]], [[[50.0, 80.0]]]])
    labels = jax.numpy.ones((2, 1, 1), jax.numpy.int32)

    def decode(maps, points, labels):
        return model.apply(
            {"params": params}, maps, Prompts(points, labels), method="decode"
        ).logits

    whole = jax.jit(decode)(maps, points, labels)
    mapped = jax.jit(jax.vmap(lambda *x: decode(*(y[None] for y in x))[0]))(maps, points, labels)
    np.testing.assert_allclose(mapped, whole, rtol=0, atol=1e-4)
    gradient = jax.jit(jax.grad(lambda m: decode(m, points, labels)[0].sum()))(maps)
    assert np.abs(gradient[0]).max() > 0
    assert not gradient[1].any()

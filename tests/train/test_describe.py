import dataclasses

import jax.numpy as jnp
import pytest
from flax import linen as nn

from jaxseg import models
from jaxseg.errors import UserError
from jaxseg.train.describe import describe
from tests.shapes import NUMBERED


@pytest.mark.parametrize("name", sorted(models.MODELS))
def test_every_builder_is_found_again(name):
    others = {
        "sam": {"dropout": 0.1},
        "clip": {"activation": "gelu"},
        "grounding_dino": {"fusion": False, "text_attention": False},
    }
    detector = {"num_classes": 7, "canvas": "padded"}
    fields = detector if name in NUMBERED else others[name.split(".")[0]]
    model = models.build(name, **fields)
    found, kwargs = describe(model)
    assert models.build(found, **kwargs) == model
    assert len(kwargs) <= 2  # two builders may differ in nothing else


def test_overridden_parts_are_described_and_how_a_run_computes_is_not():
    model = models.detr.tiny(dtype=jnp.bfloat16, remat=True)
    decoder = dataclasses.replace(model.decoder, num_layers=2)
    assert describe(dataclasses.replace(model, decoder=decoder)) == (
        "detr.tiny",
        {"decoder_layers": 2},
    )


def test_a_narrow_backbone_is_described():
    model = models.detr.tiny(stem=16, dilation=True)
    assert describe(model) == ("detr.tiny", {"stem": 16, "dilation": True})


@pytest.mark.parametrize("name", ["dn_detr.encoder_only_r50", "dn_detr.deformable_r50"])
def test_a_model_without_one_of_its_builders_parts_is_described(name):
    model = models.build(name, denoising=False)
    found, kwargs = describe(model)
    assert models.build(found, **kwargs) == model


def test_a_model_that_no_builder_makes_is_an_error():
    model = models.detr.tiny()
    odd = dataclasses.replace(model, decoder=dataclasses.replace(model.decoder, feedforward=7))
    for wrong in (odd, nn.Dense(3)):
        with pytest.raises(UserError, match="cannot be built by any of the named builders"):
            describe(wrong)

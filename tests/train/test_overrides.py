import dataclasses

import jax.numpy as jnp
import pytest

from jaxseg.data.prompts import Prompts
from jaxseg.data.transforms import RandomFlip
from jaxseg.errors import UserError
from jaxseg.models import detr
from jaxseg.train.experiment import Data, Experiment
from jaxseg.train.overrides import apply_overrides, settings

BASE = Experiment(
    model=detr.tiny(), data=Data("a.json", RandomFlip(), ((32, 32),), val="b.json"), seed=7
)


def changed(*overrides):
    before, after = settings(BASE), settings(apply_overrides(BASE, overrides))
    return {name: value for name, value in after.items() if before[name] != value}


@pytest.mark.parametrize(
    ("override", "name", "value"),
    [
        ("epochs=3", "epochs", 3.0),
        ("steps=1e3", "steps", 1000),
        ("seed=-1", "seed", -1),
        ("model.decoder.num_layers=1", "model.decoder.num_layers", 1),
        ("model.backbone.depths=1,1,2,1", "model.backbone.depths", (1, 1, 2, 1)),
        ("model.canvas=padded", "model.canvas", "padded"),
        ("criterion.aux_loss=false", "criterion.aux_loss", False),
        ("optimizer.clip_norm=none", "optimizer.clip_norm", None),
        ("data.train=123", "data.train", "123"),
        ("data.train=a=b?c=d", "data.train", "a=b?c=d"),
        ("data.val=None", "data.val", None),
        ("data.buckets=(64,64),(32,96)", "data.buckets", ((64, 64), (32, 96))),
        ("data.transform.p=0.25", "data.transform.p", 0.25),
        ("ema.decay=0.99", "ema.decay", 0.99),
        (
            "optimizer.frozen=[('^backbone', True)]",
            "optimizer.frozen",
            (("^backbone", True),),
        ),
    ],
)
def test_a_value_is_read_as_its_field_says(override, name, value):
    found = changed(override)
    assert found == {name: value}
    assert type(found[name]) is type(value)


def test_none_takes_the_place_of_a_whole_part():
    told = dataclasses.replace(BASE, data=dataclasses.replace(BASE.data, prompts=Prompts("v.txt")))
    assert apply_overrides(told, ["data.prompts=none"]) == BASE
    assert apply_overrides(BASE, ["model=none"]).model is None


def test_the_last_override_wins():
    assert changed("epochs=3", "epochs=4") == {"epochs": 4.0}


def test_the_dtype_of_a_module_is_that_of_its_parts():
    parts = ("", "backbone.", "encoder.", "decoder.")
    wanted = {f"model.{part}dtype": jnp.bfloat16 for part in parts}
    assert changed("model.dtype=bfloat16") == wanted
    assert changed("model.backbone.dtype=bfloat16") == {"model.backbone.dtype": jnp.bfloat16}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epoch=3", r"'epoch' \(did you mean epochs\?\): a config has accumulate, backbone"),
        ("learning_rate=1", r"did you mean optimizer.learning_rate\?"),
        ("model.decodr.x=1", r"did you mean model.decoder\?.*model has backbone, canvas, decoder"),
        ("data.val.x=1", "data.val is 'b.json' and has no parts"),
        ("model=3", "model has parts: override one of model.backbone"),
        ("data.transform=none", "data.transform has parts"),
        ("model=3", "or set it to none"),
        ("steps=2.5", "steps must be a whole number or none; got '2.5'"),
        ("steps=nan", "steps must be a whole number or none"),
        ("epochs=1e999", "epochs must be a number"),
        ("epochs=true", "epochs must be a number"),
        ("criterion.aux_loss=2", "must be true or false"),
        ("data.numbering=x", "must be one of contiguous, raw"),
        ("data.buckets=64,64", r"must be a list such as \[\(64, 64\)\]"),
        ("model.dtype=int8", "must be one of float32, bfloat16, float16"),
        ("model.encoder.activation=gelu", "must be set in the config file"),
        ("epochs", "overrides look like name=value"),
        ("=3", "overrides look like name=value"),
    ],
)
def test_a_wrong_override_says_what_is_allowed(override, message):
    with pytest.raises(UserError, match=message):
        apply_overrides(BASE, [override])


def test_epochs_that_steps_make_void_are_refused():
    stepped = dataclasses.replace(BASE, steps=300)
    with pytest.raises(UserError, match="epochs would be void: the run has steps=300; add steps="):
        apply_overrides(stepped, ["epochs=3"])
    assert apply_overrides(stepped, ["epochs=3", "steps=none"]).epochs == 3
    assert apply_overrides(stepped, ["steps=7"]).steps == 7


def test_an_example_can_be_copied():
    said = "must be a list such as "
    with pytest.raises(UserError, match=said) as caught:
        apply_overrides(BASE, ["load=weights"])
    example = str(caught.value).partition(said)[2].partition(";")[0]
    assert apply_overrides(BASE, [f"load={example}"]).load == (("PATTERN", True),)


def test_the_config_itself_does_not_change():
    before = dataclasses.replace(BASE)
    apply_overrides(BASE, ["epochs=3", "model.num_classes=2"])
    assert before == BASE

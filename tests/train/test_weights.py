import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest

from jaxseg import models
from jaxseg.checkpoints import ImageConfig, save_pretrained
from jaxseg.data.classes import Classes
from jaxseg.data.prompts import Prompts
from jaxseg.errors import UserError
from jaxseg.models import detr
from jaxseg.params import abstract_params
from jaxseg.train.checks import check_settings
from jaxseg.train.describe import describe
from jaxseg.train.experiment import Data, Experiment
from jaxseg.train.overrides import apply_overrides
from jaxseg.train.weights import resolve_model, resume_model

CLASSES = Classes.from_names(("cat", "dog"))


@pytest.fixture
def trained(tmp_path):
    """A folder of weights."""
    model = detr.tiny(num_classes=2, width=16, num_heads=2, feedforward=16, num_queries=4)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), abstract_params(model))
    save_pretrained(tmp_path, *describe(model), zeros, classes=CLASSES, image=ImageConfig())
    return tmp_path


def experiment(**fields):
    return Experiment(model=None, data=Data(train="", transform=None, buckets=()), **fields)


def test_the_model_of_trained_weights_computes_as_dtype_says(trained):
    plain = resolve_model(experiment(init=str(trained)), CLASSES).model
    assert plain.dtype == jnp.float32
    wanted = apply_overrides(experiment(init=str(trained)), ["dtype=bfloat16"])
    model, initial, _ = resolve_model(wanted, CLASSES)
    assert {model.dtype, model.backbone.dtype, model.encoder.dtype} == {jnp.bfloat16}
    assert {model.param_dtype} | {x.dtype.type for x in initial.values()} == {jnp.float32}
    assert describe(model) == describe(plain)


def test_only_of_weights_for_other_classes_there_is_something_to_say(trained):
    notes = []
    resolve_model(experiment(init=str(trained)), CLASSES, notes.append)
    assert notes == []
    resolve_model(experiment(init=str(trained)), Classes.from_names("abc"), notes.append)
    (note,) = notes
    assert "was made for 2 classes and is loaded for 3 classes: class_embed/bias" in note


def test_a_run_that_goes_on_reads_no_weights(trained):
    begun = resolve_model(experiment(init=str(trained), dtype=jnp.bfloat16), CLASSES)
    later = experiment(init="gone", dtype=jnp.bfloat16)
    recorded = json.loads(json.dumps(begun.init))
    resumed = resume_model(later, CLASSES, tuple(recorded))
    assert (resumed.model, resumed.initial) == (begun.model, None)
    with pytest.raises(UserError, match="gone does not exist"):
        resume_model(later, CLASSES, None)  # a run that was begun before there was a record
    own = dataclasses.replace(later, init=None, backbone="gone.pth", model=begun.model)
    assert resume_model(own, CLASSES, None).model == begun.model
    with pytest.raises(UserError, match="the model has 2 classes and the data set 3"):
        resume_model(own, Classes.from_names("abc"), None)


def test_a_dtype_that_is_no_float_is_refused():
    with pytest.raises(UserError, match="dtype must be float32"):
        check_settings(experiment(dtype=jnp.int8))


def told(**fields):
    data = Data(train="", transform=None, buckets=(), prompts=Prompts("vocab.txt"))
    return Experiment(data=data, **fields)


def test_a_bert_of_full_size_does_not_begin_at_random_unasked():
    large = models.build("grounding_dino.tiny", bert_layers=12)
    with pytest.raises(UserError, match="text=google-bert/bert-base-uncased"):
        resolve_model(told(model=large), CLASSES)
    for start in (told(model=large, text="random"), told(model=models.grounding_dino.tiny())):
        assert resolve_model(start, CLASSES).initial is None


def test_text_is_for_models_that_read_and_not_beside_init():
    model = detr.tiny(num_classes=2)
    data = Data(train="", transform=None, buckets=())
    with pytest.raises(UserError, match="a Detr has none: leave it out"):
        resolve_model(Experiment(model=model, data=data, text="bert"), CLASSES)
    with pytest.raises(UserError, match="give init or text, not both"):
        check_settings(experiment(init="weights", text="bert"))

"""Training and judging models that are told what to look for."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import models
from jaxseg.checkpoints import from_pretrained
from jaxseg.data import open_dataset
from jaxseg.data.captions import class_prompts, evaluation_prompts
from jaxseg.data.coloured import HELD_OUT, NAMES
from jaxseg.data.transforms import RandomFlip
from jaxseg.errors import UserError
from jaxseg.eval.build import make_evaluator
from jaxseg.eval.prompted import detect_classes
from jaxseg.losses.criterion import SetCriterion, SoftmaxClasses, TokenClasses
from jaxseg.models.grounding_dino import class_shares
from jaxseg.ops.images import normalize
from jaxseg.params import abstract_inputs, abstract_params, flatten
from jaxseg.pretrained import ImageConfig
from jaxseg.train.experiment import Data, Experiment
from jaxseg.train.optim import Optimizer
from jaxseg.train.overrides import apply_overrides, settings
from jaxseg.train.session import prepare
from tests.data.words import prompter, prompts, vocabulary
from tests.quick import quick_jit
from tests.train.config import CONFIG
from tests.train.small import small_detr
from tests.train.test_command import jaxseg
from tests.train.told import Told

SHAPES = "size=64&objects=2&count="
SETS = {
    "seen": f"coloured:seen?{SHAPES}6",
    "held_out": f"coloured:held_out?{SHAPES}4",
}


def experiment(**changes) -> Experiment:
    data = {
        "train": f"coloured:train?{SHAPES}8",
        "val": SETS,
        "batch_size": 4,
        "buckets": ((64, 64),),
        "transform": RandomFlip(),
        "image": ImageConfig(short_side=64, long_side=64),
        "max_targets": 3,
        "eval_batch_size": 4,
        "prompts": prompts(length=128, max_labels=8),
    }
    own = {name: changes.pop(name) for name in list(changes) if name in data}
    settings = {
        "model": Told(),
        "criterion": SetCriterion(classes=TokenClasses()),
        "metric": "held_out/AP50",
        "sharding": (),
        "steps": 4,
        "optimizer": Optimizer(learning_rate=1e-3, clip_norm=None),
    }
    return Experiment(data=Data(**data | own), **settings | changes)


def test_a_step_reads_captions_and_a_few_lower_the_loss():
    session = prepare(experiment())
    step, state, batch = quick_jit(session.step), session.create_state(), session.loader.batch(0)
    losses = []
    for _ in range(8):
        state, report = step(state, batch)
        losses.append(float(report.metrics["loss"]))
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    other = dataclasses.replace(batch.captions, ids=batch.captions.ids + 1)
    told = step(state, batch.replace(captions=other))[1].metrics["loss"]
    assert float(told) != float(step(state, batch)[1].metrics["loss"])


def test_parts_of_a_batch_take_their_own_captions_along():
    batch = prepare(experiment()).loader.batch(0)
    found = []
    for parts in (1, 2):
        session = prepare(experiment(accumulate=parts))
        state, report = quick_jit(session.step)(session.create_state(), batch)
        found.append((report.metrics["loss"], state.opt_state.mu["words/embedding"]))
    np.testing.assert_allclose(*(loss for loss, _ in found), rtol=1e-5)
    np.testing.assert_allclose(*(moment for _, moment in found), rtol=1e-3, atol=1e-7)


def test_each_evaluation_has_its_name_and_the_metric_that_counts_comes_first():
    session = prepare(experiment())
    assert list(session.val_sets) == ["seen", "held_out"]
    assert session.classes.names == NAMES
    polled = []
    values = session.evaluator()(session.create_state().params, 0, lambda: polled.append(1))
    assert list(values)[:2] == ["seen/AP50", "held_out/AP50"]
    assert {"seen/AP", "held_out/AP75"} <= set(values)
    assert not np.isnan(values["held_out/AP"])
    held = {name for name in NAMES if not np.isnan(values[f"held_out/AP/{name}"])}
    seen = {name for name in NAMES if not np.isnan(values[f"seen/AP/{name}"])}
    assert held <= set(HELD_OUT)
    assert not seen & set(HELD_OUT)
    assert len(polled) == 3


def test_one_evaluation_keeps_its_plain_names():
    session = prepare(experiment(val=SETS["seen"], metric="AP"))
    values = session.evaluator()(session.create_state().params, 0, lambda: None)
    assert "AP" in values
    assert session.val_set is session.val_sets[""]


def test_a_run_may_mix_data_sets_of_different_classes():
    mixed = ((f"coloured:train?{SHAPES}8", 3.0), (f"synthetic:shapes?{SHAPES}8", 1.0))
    session = prepare(experiment(train=mixed, val=None))
    assert session.loader.steps_per_epoch == 4
    batch = session.loader.batch(0)
    assert batch.targets.tokens[batch.targets.mask].any(-1).all()
    assert session.evaluator() is None
    plain = experiment(train=mixed, val=None, prompts=None, model=small_detr())
    with pytest.raises(UserError, match="data sets of different classes: that is for models"):
        prepare(plain)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": "AP"}, "metric must say of which evaluation it is, as seen/AP or held_out/AP"),
        ({"metric": "seen/XY"}, "metric is one of AP, AP50"),
        ({"val": {"a/b": SETS["seen"]}}, 'must be words without "/"; got a/b'),
        ({"val": {}}, "must name one data set or more"),
        ({"train": ()}, "must name one data set or more"),
        ({"train": ((SETS["seen"], -1.0),)}, "weight of data set 0 must be above 0"),
        ({"prompts": None}, "is told what to look for: set data.prompts"),
        ({"criterion": SetCriterion()}, "criterion.classes must be TokenClasses"),
        ({"model": small_detr(), "val": None}, "which the model .* does not read"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        prepare(experiment(**changes))


def test_settings_of_prompts_are_checked():
    for name, value, message in (
        ("length", 2, "data.prompts.length must be 4 or more; got 2"),
        ("max_labels", 0, "data.prompts.max_labels must be 1 or more"),
        ("negatives", "many", "data.prompts.negatives is one of fill, vary"),
        ("vocabulary", "nowhere.txt", "there is no vocabulary nowhere.txt"),
    ):
        wrong = dataclasses.replace(prompts(), **{name: value})
        with pytest.raises(UserError, match=re.escape(message)):
            prepare(experiment(prompts=wrong))
    with pytest.raises(UserError, match=r"data\.epoch_images is of a mixture"):
        prepare(apply_overrides(experiment(), ["data.epoch_images=5"]))


def test_token_classes_are_not_for_models_with_classes():
    plain = experiment(model=small_detr(), prompts=None, val=None)
    plain = dataclasses.replace(plain, model=small_detr().clone(num_classes=0))
    with pytest.raises(UserError, match="must be FocalClasses or SoftmaxClasses"):
        prepare(plain)
    prepare(dataclasses.replace(plain, criterion=SetCriterion(classes=SoftmaxClasses())))


def test_data_sets_and_evaluations_can_be_set_on_the_command_line():
    changed = apply_overrides(
        experiment(),
        [
            "data.val={'a': 'x.json', 'b': 'y.json'}",
            "data.train=[('one.json', 1), ('two.jsonl', 2.5)]",
            "data.epoch_images=100",
            "data.prompts.max_labels=20",
        ],
    ).data
    assert changed.evaluations == {"a": "x.json", "b": "y.json"}
    assert changed.parts == (("one.json", 1.0), ("two.jsonl", 2.5))
    assert changed.prompts.max_labels == 20
    assert apply_overrides(experiment(), ["data.val=x.json"]).data.evaluations == {"": "x.json"}
    assert settings(experiment())["data.val"] == SETS


def test_classes_of_several_captions_are_found_as_if_each_were_asked_alone():
    model, names = Told(), list(NAMES[:10])
    inputs = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), abstract_inputs(model))
    params = model.init(jax.random.key(0), *inputs)["params"]
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    images = normalize(inputs[0].replace(pixels=pixels, mask=np.ones((2, 64, 64), bool)))
    sizes = np.asarray([[64, 64], [50, 70]])
    asked = class_prompts(names, prompter().tokenizer, 64, at_once=4)
    assert len(asked.tokens) == 3
    scores = []
    for caption in range(3):
        rows = np.asarray([caption, caption])
        captions = jax.tree.map(lambda x, rows=rows: x[rows], asked.captions)
        found = model.apply({"params": params}, images, captions)
        probabilities = jax.nn.sigmoid(found.logits[-1])
        shares = class_shares(jnp.asarray(asked.tokens[caption]))
        scores.append(np.einsum("bqs,ks->bqk", probabilities, shares))
    every = np.sum(scores, 0)  # each class is in one caption, and has no score in others
    wanted = -np.sort(-every.reshape(2, -1), -1)[:, :5]
    for at_once in (1, 2, 3, 8):
        got = detect_classes(model, params, images, asked, sizes, at_once)
        np.testing.assert_allclose(got.scores, wanted, rtol=1e-5)
        for row in range(2):
            for score, label in zip(got.scores[row], got.labels[row], strict=True):
                assert np.isclose(every[row, :, label], score, rtol=1e-5).any()


def test_prompts_are_for_models_that_read_them():
    dataset = open_dataset(SETS["seen"])
    asked, ids = evaluation_prompts(prompter(length=128), dataset.classes)
    with pytest.raises(ValueError, match="prompts are for models that read captions"):
        make_evaluator(Told(), dataset, category_ids=ids)
    with pytest.raises(ValueError, match="prompts are for models that read captions"):
        make_evaluator(small_detr(), dataset, category_ids=ids, prompts=asked)


def test_the_papers_rates_and_freezing_are_tables_over_grounding_dinos_paths():
    paths = list(flatten(abstract_params(models.build("grounding_dino.tiny"))))
    reference = r"/(ref_point_head|sampling_offsets)/"
    optimizer = Optimizer(
        learning_rates=((r"^(backbone|bert)/", 0.1), (reference, 0.1)),
        frozen=((r"^bert/", True),),
    )
    trained = optimizer.trainable(paths)
    assert any(path.startswith("bert/") for path in paths)
    assert not any(path.startswith("bert/") for path in trained)
    assert any(path.startswith("backbone/") for path in trained)
    assert any(re.search(reference, path) for path in trained)
    optimizer.build(lambda step: 1.0, paths)


TOLD = """
import dataclasses

from jaxseg.data.prompts import Prompts
from jaxseg.losses.criterion import FirstStage, SetCriterion, TokenClasses
from jaxseg.models import grounding_dino

plain = experiment


def experiment():
    base = plain()
    data = dataclasses.replace(
        base.data,
        train="coloured:train?size=64&objects=2&count=8",
        val={name: f"coloured:{name}?size=64&count=2" for name in ("seen", "held_out")},
        prompts=Prompts(VOCABULARY, length=128, max_labels=6),
    )
    return dataclasses.replace(
        base,
        model=grounding_dino.tiny(
            width=32, num_heads=2, feedforward=32, encoder_layers=1, decoder_layers=1,
            fusion_width=16, fusion_heads=2, text_heads=2, text_feedforward=16, stem=16,
            bert_layers=1, bert_width=16, bert_heads=2, bert_feedforward=16, num_queries=10,
            num_levels=3,
        ),
        data=data,
        criterion=SetCriterion(classes=TokenClasses(), first_stage=FirstStage("interm")),
        metric="held_out/AP50",
    )
"""


def test_one_command_trains_grounding_dino_and_judges_it_on_two_sets(tmp_path):
    config, workdir = tmp_path / "told.py", tmp_path / "run"
    config.write_text(f"{CONFIG}\nVOCABULARY = {vocabulary()!r}\n{TOLD}")
    said = jaxseg("train", config, "--workdir", workdir)
    assert "validation seen 2 images, held_out 2 images" in said
    assert "step 2: held_out/AP50 " in said
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [x["step"] for x in lines if "loss" in x] == [1, 2, 3]
    assert [x["step"] for x in lines if "eval/seen/AP50" in x] == [2, 3]
    assert [x["step"] for x in lines if "eval/held_out/AP50" in x] == [2, 3]
    loaded = from_pretrained(workdir / "best")
    assert loaded.classes.names == NAMES
    assert loaded.vocabulary is not None
    metrics = tmp_path / "metrics.json"
    jaxseg("eval", workdir / "best", "coloured:held_out?size=64&count=2", "--json", metrics)
    judged = json.loads(metrics.read_text())["metrics"]["AP50"]
    best = max(x["eval/held_out/AP50"] for x in lines if "eval/held_out/AP50" in x)
    np.testing.assert_allclose(judged, best, atol=1e-4)
    said = jaxseg("train", config, "steps=4", "--workdir", workdir)
    assert "resuming at step 3 of 4" in said

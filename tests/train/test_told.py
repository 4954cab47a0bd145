"""Training and judging models that are told what to look for."""

import dataclasses
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import hub, models
from jaxseg.checkpoints import from_pretrained
from jaxseg.data import open_dataset
from jaxseg.data.captions import ask_classes, class_prompts
from jaxseg.data.coloured import HELD_OUT, NAMES
from jaxseg.data.transforms import RandomFlip
from jaxseg.errors import UserError
from jaxseg.eval import prepare as command
from jaxseg.eval import told
from jaxseg.eval.build import make_evaluator
from jaxseg.eval.expressions import make_expression_evaluator
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
from jaxseg.train.vocabulary import prompts_for
from tests.data.words import prompts, vocabulary
from tests.eval.told import save_coco, save_images, weights
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


@pytest.fixture
def expressions(tmp_path) -> str:
    images = save_images(tmp_path / "images", 3)
    content = {
        "images": [image | {"caption": "the man on the left"} for image in images],
        "annotations": [{"id": i, "image_id": i, "bbox": [2, 2, 28, 28]} for i in (1, 2, 3)],
    }
    (tmp_path / "said.json").write_text(json.dumps(content))
    return f"refcoco:{tmp_path / 'said.json'}"


@pytest.fixture
def phrases(tmp_path) -> str:
    folder = tmp_path / "phrases"
    (image,) = save_images(folder, 1)
    region = {"bbox": [2, 2, 28, 28], "phrase": "a man"}
    about = {"filename": image["file_name"], "height": 32, "width": 32}
    line = about | {"grounding": {"caption": "a man", "regions": [region]}}
    (folder / "all.jsonl").write_text(json.dumps(line))
    return f"odvg:{folder / 'all.jsonl'}"


def test_expressions_are_judged_by_their_accuracy(expressions, tokenizer):
    val = {"said": expressions, "seen": SETS["seen"]}
    session = prepare(experiment(val=val, metric="said/accuracy_1"))
    assert session.classes.names == NAMES
    params = session.create_state().params
    values = session.evaluator()(params, 0, lambda: None)
    assert next(iter(values)) == "said/accuracy_1"
    assert "seen/AP" in values
    image = session.experiment.data.image
    dataset = open_dataset(expressions)
    own = make_expression_evaluator(Told(), dataset, tokenizer, image=image, length=128)(params)
    names = [f"accuracy_{rank}" for rank in (1, 5, 10)]
    assert [values[f"said/{name}"] for name in names] == [own[name] for name in names]
    with pytest.raises(UserError, match="of referring expressions metric is one of accuracy_1"):
        prepare(experiment(val=val, metric="said/AP"))


def test_phrases_of_single_images_cannot_be_judged(phrases):
    for val in (phrases, {"own": phrases, "seen": SETS["seen"]}):
        with pytest.raises(
            UserError, match=r"has phrases, each of one image alone.*data\.val=odvg"
        ):
            prepare(experiment(val=val))
    with pytest.raises(UserError, match="has phrases, each of one image alone"):
        command.prepare("told", weights()).evaluator(open_dataset(phrases))


def test_expressions_and_phrases_are_not_for_models_with_classes(expressions, phrases):
    plain = {"prompts": None, "model": small_detr(), "criterion": SetCriterion(), "metric": "AP"}
    for own in (expressions, phrases):
        with pytest.raises(UserError, match=r"data\.train has phrases"):
            prepare(experiment(train=((own, 1.0), (own, 1.0)), val=None, **plain))
        with pytest.raises(UserError, match=r"data\.val has phrases"):
            prepare(experiment(val=own, **plain))


@pytest.mark.parametrize(("lvis", "length", "captions"), [(True, 256, 2), (False, 64, 3)])
def test_training_and_the_command_ask_for_the_same(tmp_path, monkeypatch, lvis, length, captions):
    names = [f"{a} {b}" for a in ("red", "blue", "old", "new", "big") for b in "abcdefghij"]
    path = save_coco(tmp_path / "data.json", names, 1)
    if lvis:
        content = json.loads(path.read_text())
        content["images"][0]["neg_category_ids"] = []
        content["categories"] = [c | {"frequency": "f"} for c in content["categories"]]
        path.write_text(json.dumps(content))
    asked = []
    monkeypatch.setattr(told, "make_evaluator", lambda *_, prompts, **__: asked.append(prompts))
    session = prepare(experiment(val=str(path), metric="AP", prompts=prompts(length=length)))
    session.evaluator()
    saved = weights()._replace(text_length=length)
    command.prepare("told", saved).evaluator(open_dataset(path))
    assert [x.tokens.shape for x in asked] == [(captions, 50, length)] * 2
    np.testing.assert_array_equal(asked[0].captions.ids, asked[1].captions.ids)


def told_by(source: str | None, init: str | None = None) -> str:
    words = dataclasses.replace(prompts(), vocabulary=source)
    return prompts_for(experiment(prompts=words, init=init), Told()).vocabulary


def test_a_vocabulary_may_be_that_of_the_weights(tmp_path, monkeypatch):
    saved = tmp_path / "weights"
    saved.mkdir()
    shutil.copy(vocabulary(), saved)
    for nothing in (None, ""):
        assert told_by(nothing, str(saved)) == str(saved / "vocab.txt")
    assert told_by(vocabulary(), str(saved)) == vocabulary()
    monkeypatch.setattr(hub, "fetch_vocabulary", lambda *_: saved)
    assert told_by(None, "lab/words") == str(saved / "vocab.txt")
    with pytest.raises(
        UserError, match=r"and there are no weights \(init\) to bring one: set data"
    ):
        told_by(None)
    with pytest.raises(
        UserError, match=r"and .*\.pth has none: set data\.prompts\.vocabulary to a"
    ):
        told_by(None, str(tmp_path / "official.pth"))


def test_a_vocabulary_may_be_an_id(tmp_path, monkeypatch):
    shutil.copy(vocabulary(), tmp_path)
    monkeypatch.setattr(hub, "fetch_vocabulary", lambda *_: tmp_path)
    words = dataclasses.replace(prompts(), vocabulary="lab/words")
    session = prepare(experiment(prompts=words, val=None))
    assert session.given.data.prompts == words
    assert session.experiment.data.prompts.vocabulary == str(tmp_path / "vocab.txt")
    assert session.loader.batch(0).captions is not None


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


def test_classes_of_several_captions_are_found_as_if_each_were_asked_alone(tokenizer):
    model, names = Told(), list(NAMES[:10])
    inputs = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), abstract_inputs(model))
    params = model.init(jax.random.key(0), *inputs)["params"]
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    images = normalize(inputs[0].replace(pixels=pixels, mask=np.ones((2, 64, 64), bool)))
    sizes = np.asarray([[64, 64], [50, 70]])
    asked = class_prompts(names, tokenizer, 64, at_once=4)
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


def test_prompts_are_for_models_that_read_them(tokenizer):
    dataset = open_dataset(SETS["seen"])
    asked, ids = ask_classes(dataset.classes, tokenizer, 128)
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
    assert loaded.text_length == 128
    metrics = tmp_path / "metrics.json"
    jaxseg("eval", workdir / "best", "coloured:held_out?size=64&count=2", "--json", metrics)
    judged = json.loads(metrics.read_text())["metrics"]["AP50"]
    best = max(x["eval/held_out/AP50"] for x in lines if "eval/held_out/AP50" in x)
    np.testing.assert_allclose(judged, best, atol=1e-4)
    said = jaxseg("train", config, "steps=4", "--workdir", workdir)
    assert "resuming at step 3 of 4" in said

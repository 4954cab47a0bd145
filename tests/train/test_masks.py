"""The second stage: a mask head learns on a detector that stays as it is."""

import dataclasses
import json

import numpy as np
import pytest

from jaxseg.checkpoints import from_pretrained, save_pretrained
from jaxseg.data.classes import Classes
from jaxseg.data.shapes import SHAPES
from jaxseg.errors import UserError
from jaxseg.models import build
from jaxseg.params import flatten
from jaxseg.train.configs import load_config
from jaxseg.train.overrides import apply_overrides
from jaxseg.train.session import prepare
from tests.data.files import two_images
from tests.data.panoptic_files import stripes
from tests.small_detr import drawn
from tests.train.processes import start

FIELDS = {
    "num_classes": 6, "width": 32, "stem": 16, "feedforward": 48, "encoder_layers": 1,
    "decoder_layers": 1, "num_queries": 6,
}  # fmt: skip
CONFIG = f"""
from jaxseg.checkpoints import ImageConfig
from jaxseg.data.transforms import RandomFlip
from jaxseg.losses.criterion import SetCriterion
from jaxseg.models import detr
from jaxseg.train.experiment import Data, Experiment
from jaxseg.train.optim import Optimizer
from jaxseg_configs.detr._recipe import MASK_HEAD

SHAPES = "synthetic:shapes?size=64&objects=2&count="


def experiment():
    return Experiment(
        model=detr.tiny_masks(**{FIELDS}),
        data=Data(
            train=SHAPES + "8&seed=0", val=SHAPES + "4&seed=1", batch_size=4, max_targets=4,
            buckets=((64, 64),), transform=RandomFlip(), masks=True,
            image=ImageConfig(short_side=64, long_side=64),
        ),
        criterion=SetCriterion(aux_loss=False),
        optimizer=Optimizer(1e-2, clip_norm=1.0, frozen=((MASK_HEAD, False), ("", True))),
        load=((MASK_HEAD, False),),
        steps=100,
        log_every=1,
        evaluate_every=100,
        checkpoint_every=100,
        metric="mask_AP50",
    )
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "masks.py"
    path.write_text(CONFIG)
    return path


def save_boxes(folder, names=SHAPES):
    """A detector without masks, as the first stage leaves it."""
    fields = FIELDS | {"num_classes": len(names)}
    params = drawn(build("detr.tiny", **fields))
    classes = Classes(tuple(names), range(1, len(names) + 1))
    save_pretrained(folder, "detr.tiny", fields, params, classes=classes, probe=False)
    return folder


def test_a_mask_head_learns_and_its_detector_stays_bit_for_bit(config, tmp_path):
    boxes, workdir = save_boxes(tmp_path / "boxes"), tmp_path / "run"
    process = start("jaxseg", "train", config, f"init={boxes}", "--workdir", workdir)
    said = process.communicate(timeout=400)[0]
    assert process.returncode == 0, said
    assert "step 100: mask_AP50" in said
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss_mask"] + line["loss_dice"] for line in lines if "loss" in line]
    assert np.mean(losses[-6:]) < 0.8 * np.mean(losses[:3])
    assert "eval/mask_AP" in lines[-1]

    trained, before = (from_pretrained(place) for place in (workdir / "last", boxes))
    assert trained.name == "detr.tiny_masks"
    after = flatten(trained.params)
    for path, value in flatten(before.params).items():
        np.testing.assert_array_equal(after[path], value, path)
    assert any(path.startswith("mask_head/") for path in after)


def refused(config, *overrides):
    with pytest.raises(UserError) as told:
        prepare(apply_overrides(load_config(str(config)), overrides))
    return str(told.value)


def test_what_the_stages_need_is_told_before_any_work(config, tmp_path):
    boxes = ("data.masks=false", "metric=AP", "load=()", "backbone=random")
    assert "set data.masks=true" in refused(config, *boxes)
    assert "add init=FOLDER" in refused(config)
    others = save_boxes(tmp_path / "others", names=["a", "b", "c", "d", "e", "f"])
    said = refused(config, f"init={others}")
    assert "class_embed/bias would start from random weights" in said
    assert "metric is one of AP" in refused(config, "metric=PQ")
    for at_once in (0, -1, 4):
        wrong = (f"init={others}", f"model.mask_head.queries_at_once={at_once}")
        assert f"must divide the model's 6 queries; got {at_once}" in refused(config, *wrong)
    experiment = dataclasses.replace(
        load_config(str(config)), model=build("detr.tiny", **FIELDS), load=(), optimizer=None
    )
    with pytest.raises(UserError, match=r"draws no masks: set data\.masks=false"):
        prepare(experiment)


def test_validation_needs_masks_and_does_not_decode_them(config, tmp_path):
    start = ("load=()", "backbone=random")
    session = prepare(apply_overrides(load_config(str(config)), start))
    assert session.train_set[0].masks is not None
    assert session.val_set[0].masks is None
    assert session.evaluator() is not None
    bare = two_images(tmp_path)
    assert "has boxes but no masks" in refused(config, *start, f"data.val={bare}")


def test_boxes_of_things_and_stuff_are_trained_on_panoptic_data(config, tmp_path):
    path = stripes(tmp_path)
    experiment = dataclasses.replace(load_config(str(config)), load=(), backbone="random")
    names = f"panoptic:{path}", ("data.buckets=((64,96),)", "data.batch_size=2")
    data = [f"data.train={names[0]}", f"data.val={names[0]}", *names[1], "model.num_classes=0"]
    session = prepare(apply_overrides(experiment, [*data, "metric=PQ_stuff"]))
    assert session.classes.stuff == {2}
    batch = session.loader.batch(0)
    assert batch.targets.masks.shape == (2, 4, 64, 96)
    assert session.model.num_classes == 3

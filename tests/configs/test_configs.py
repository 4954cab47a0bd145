import re

import pytest

import jaxseg_configs
from jaxseg import models
from jaxseg.data.transforms import detr_augmentation
from jaxseg.errors import UserError
from jaxseg.parallel.rules import lookup
from jaxseg.params import abstract_params, count, flatten
from jaxseg.train.configs import config_names, load_config
from jaxseg.train.describe import describe
from jaxseg.train.overrides import apply_overrides

NAMES = config_names()
MASKS = [name for name in NAMES if name.endswith(("_panoptic_coco", "_instance_coco"))]
COCO = [name for name in NAMES if re.match("detr/.*_coco", name) and name not in MASKS]
ANCHORS = [
    name for name in NAMES if re.match("(deformable|dab|dn)_detr/.*_coco|dino/.*_coco", name)
]
FINETUNE = [name for name in NAMES if name.endswith("/finetune")]
# What a fine-tuning config's rules are tried on.
TUNED = {
    "detr/finetune": "detr.r50",
    "deformable_detr/finetune": "deformable_detr.r50_refine",
    "dab_detr/finetune": "dab_detr.r50",
    "dn_detr/finetune": "dn_detr.r50",
    "dino/finetune": "dino.r50_4scale",
}


def test_every_config_is_listed_and_no_shared_part_is():
    assert set(NAMES) >= {
        *("detr/r50_coco", "detr/r50_dc5_coco", "detr/r101_coco", "detr/r101_dc5_coco"),
        *("detr/bccd", "detr/finetune", "detr/synthetic", "dino/synthetic"),
    }
    assert not [name for name in NAMES if "_recipe" in name]


@pytest.mark.parametrize("name", NAMES)
def test_every_docstring_has_command_hardware_and_result(name):
    module = __import__(f"{jaxseg_configs.__name__}.{name.replace('/', '.')}", fromlist=["x"])
    assert f"jaxseg train {name}" in module.__doc__
    assert "Hardware: " in module.__doc__
    assert "Expected: " in module.__doc__


@pytest.mark.parametrize("name", NAMES)
def test_every_rule_of_a_config_matches_its_model(name):
    experiment = load_config(name)
    model = experiment.model or models.build(TUNED[name])
    model = model.clone(num_classes=model.num_classes or 9)  # 0: as many as the data has
    paths = flatten(abstract_params(model))
    assert lookup(experiment.sharding, paths, what="sharding")
    trainable = experiment.optimizer.trainable(paths)
    experiment.optimizer.build(experiment.schedule.build(1000), paths)
    assert not [path for path in trainable if path.endswith(("/mean", "/var"))]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in FINETUNE])
def test_the_model_of_a_config_can_be_built_again_by_name(name):
    model = apply_overrides(load_config(name), ["model.num_classes=9"]).model
    builder, arguments = describe(model)
    assert models.build(builder, **arguments) == model


@pytest.mark.parametrize("name", COCO)
def test_the_papers_recipe(name):
    experiment = load_config(name)
    optimizer = experiment.optimizer
    paths = flatten(abstract_params(experiment.model))
    trainable = optimizer.trainable(paths)
    stem = ("backbone/conv1", "backbone/layer1_", "backbone/norm1")
    assert not [p for p in trainable if p.startswith(stem) or re.search("backbone/.*norm", p)]
    assert "backbone/layer2_0/conv1/kernel" in trainable
    rates = lookup(optimizer.learning_rates, paths, default=1.0)
    assert rates["backbone/layer4_0/conv1/kernel"] * optimizer.learning_rate == pytest.approx(1e-5)
    assert rates["query_embed/embedding"] * optimizer.learning_rate == pytest.approx(1e-4)
    assert (optimizer.weight_decay, optimizer.decays, optimizer.clip_norm) == (1e-4, (), 0.1)
    assert (experiment.epochs, experiment.data.batch_size) == (500.0, 64)
    assert experiment.data.transform == detr_augmentation()
    factor = experiment.schedule.build(500 * 10)
    assert (float(factor(3999)), float(factor(4000))) == (1.0, pytest.approx(0.1))


@pytest.mark.parametrize("name", ANCHORS)
def test_the_recipe_of_detectors_with_anchors(name):
    experiment = load_config(name)
    optimizer = experiment.optimizer
    paths = flatten(abstract_params(experiment.model))
    rates = lookup(optimizer.learning_rates, paths, default=1.0)
    by_part = {path: rate * optimizer.learning_rate for path, rate in rates.items()}
    slow, main, batch = 1e-5, 1e-4, 16
    if name.startswith("deformable_detr"):
        slow, main, batch = 2e-5, 2e-4, 32
        offsets = [path for path in paths if "sampling_offsets" in path]
        assert {round(by_part[path], 9) for path in offsets} == {slow}
    backbone = {round(by_part[path], 9) for path in paths if path.startswith("backbone/")}
    assert backbone == {slow}
    assert by_part["encoder/layer_0/linear1/kernel"] == pytest.approx(main)
    assert (optimizer.weight_decay, optimizer.decays, optimizer.clip_norm) == (1e-4, (), 0.1)
    assert experiment.data.batch_size == batch
    assert experiment.criterion.denoising == name.startswith(("dn_detr", "dino"))
    assert experiment.criterion.loss_ce == (2.0 if name.startswith("deformable_detr") else 1.0)
    factor = experiment.schedule.build(round(experiment.epochs) * 10)
    last = {50: 40, 12: 11, 24: 20, 36: 30}[experiment.epochs] * 10
    assert (float(factor(last - 1)), float(factor(last))) == (1.0, pytest.approx(0.1))


@pytest.mark.parametrize("name", MASKS)
def test_the_second_stage_trains_the_mask_head_alone(name):
    experiment = load_config(name)
    paths = flatten(abstract_params(experiment.model))
    trainable = experiment.optimizer.trainable(paths)
    assert {path.split("/")[0] for path in trainable} == {"bbox_attention", "mask_head"}
    assert count({path: paths[path] for path in trainable}) == 1_333_657
    taken = lookup(experiment.load, paths, default=True)
    assert {path for path in paths if taken[path]} == set(paths) - set(trainable)
    assert (experiment.epochs, experiment.data.masks) == (25.0, True)
    factor = experiment.schedule.build(25 * 10)
    assert (float(factor(149)), float(factor(150))) == (1.0, pytest.approx(0.1))


def test_both_stages_of_a_panoptic_model_tell_the_same_classes_apart():
    for depth in (50, 101):
        first, second = (
            load_config(f"detr/r{depth}_panoptic{stage}_coco") for stage in ("_boxes", "")
        )
        boxes, masks = (flatten(abstract_params(x.model)) for x in (first, second))
        assert {path: masks[path] for path in boxes} == boxes
        assert first.data.train == second.data.train == "panoptic:data/coco/train2017"


@pytest.mark.parametrize("name", NAMES)
def test_canvases_are_multiples_of_the_stride(name):
    experiment = load_config(name)
    stride = (experiment.model or models.build(TUNED[name])).stride
    assert not [b for b in experiment.data.buckets if b[0] % stride or b[1] % stride]


def test_a_config_may_be_a_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("from jaxseg_configs.detr.synthetic import experiment\n")
    assert load_config(str(path)) == load_config("detr/synthetic")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no config file .*mine.py.*detr/r50_coco"),
        ("def experiment(:\n", "mine.py, line 1"),
        ("x = 1\n", r"must define `experiment\(\)`"),
        ("def experiment():\n    return 3\n", r"must define `experiment\(\)`"),
    ],
)
def test_a_file_without_an_experiment_is_an_error(tmp_path, text, message):
    path = tmp_path / "mine.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=message):
        load_config(str(path))


def test_an_unknown_name_lists_those_there_are():
    with pytest.raises(UserError, match=r"did you mean detr/r50_coco\?.*detr/bccd, detr/finetune"):
        load_config("detr/r50_cocco")

import importlib
import re

import pytest

from jaxseg import models
from jaxseg.data.transforms import detr_augmentation
from jaxseg.errors import UserError
from jaxseg.losses.criterion import FirstStage, FocalClasses
from jaxseg.models.detr.deformable_decoder import DeformableDecoderLayer
from jaxseg.models.grounding_dino.fusion import Apart
from jaxseg.parallel.rules import lookup
from jaxseg.params import count, reads_captions
from jaxseg.pretrained import class_head
from jaxseg.train.configs import config_names, load_config
from jaxseg.train.describe import describe
from jaxseg.train.overrides import apply_overrides
from jaxseg_configs.dab_detr import _recipe as dab_detr
from jaxseg_configs.dino import _recipe as dino
from tests.shapes import flat_shapes

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
    "grounding_dino/finetune": "grounding_dino.swin_t",
}


def docstring(name):
    return importlib.import_module(f"jaxseg_configs.{name.replace('/', '.')}").__doc__


def test_every_config_is_listed_and_no_shared_part_is():
    assert set(NAMES) >= {
        *("detr/r50_coco", "detr/r50_dc5_coco", "detr/r101_coco", "detr/r101_dc5_coco"),
        *("detr/bccd", "detr/finetune", "detr/synthetic", "dino/synthetic"),
    }
    assert not [name for name in NAMES if "_recipe" in name]


@pytest.mark.parametrize("name", NAMES)
def test_every_docstring_has_command_hardware_and_result(name):
    text = docstring(name)
    assert f"jaxseg train {name} " in text.replace("\n", " ")
    assert "Hardware: " in text
    assert "Expected: " in text


@pytest.mark.parametrize(
    ("name", "figure"),
    [
        ("detr/r50_panoptic_boxes_coco", "38.8 box AP"),
        ("detr/r50_dc5_panoptic_boxes_coco", "40.2 box AP"),
        ("detr/r101_panoptic_boxes_coco", "40.1 box AP"),
        ("detr/r50_dc5_panoptic_coco", "44.6 PQ"),
        ("dab_detr/deformable_r50_coco", "48.1 AP"),
        ("dab_detr/encoder_only_r50_coco", "46.9 AP"),
        ("dab_detr/r50_dc5_fixed_xy_coco", "44.7 AP"),
        ("dn_detr/deformable_r50_coco", "49.5 AP"),
        ("dn_detr/deformable_r50_24ep_coco", "48.4 AP"),
        ("dn_detr/encoder_only_r50_12ep_coco", "43.4 AP"),
    ],
)
def test_what_is_expected_is_what_was_published(name, figure):
    assert f"Expected: {figure} on val2017 (the " in docstring(name)


@pytest.mark.parametrize("name", NAMES)
def test_every_rule_of_a_config_matches_its_model(name):
    experiment = load_config(name)
    model = experiment.model or models.build(TUNED[name])
    if not reads_captions(model):
        model = model.clone(num_classes=model.num_classes or 9)  # 0: as many as the data has
    paths = flat_shapes(model)
    assert lookup(experiment.sharding, paths, what="sharding")
    trainable = experiment.optimizer.trainable(paths)
    experiment.optimizer.build(experiment.schedule.build(1000), paths)
    assert not [path for path in trainable if path.endswith(("/mean", "/var"))]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in FINETUNE])
def test_the_model_of_a_config_can_be_built_again_by_name(name):
    experiment = load_config(name)
    changes = [] if reads_captions(experiment.model) else ["model.num_classes=9"]
    if "swin" in name:  # how a model computes is not written down
        told = reads_captions(experiment.model)
        parts = ("backbone", "encoder", "decoder") if told else ("backbone",)
        changes += [f"model.{part}.remat=false" for part in parts]
    model = apply_overrides(experiment, changes).model
    builder, arguments = describe(model)
    assert models.build(builder, **arguments) == model


@pytest.mark.parametrize("name", COCO)
def test_the_papers_recipe(name):
    experiment = load_config(name)
    optimizer = experiment.optimizer
    paths = flat_shapes(experiment.model)
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


# cost_class, cost_bbox, cost_giou; loss_ce, loss_bbox, loss_giou; epsilon of the last.
PUBLISHED_LOSSES = {
    "deformable_detr": (2.0, 5.0, 2.0, 2.0, 5.0, 2.0, 0.0),
    "dab_detr": (2.0, 5.0, 2.0, 1.0, 5.0, 2.0, 1e-6),
    "dn_detr": (2.0, 5.0, 2.0, 1.0, 5.0, 2.0, 1e-6),
    "dino": (2.0, 5.0, 2.0, 1.0, 5.0, 2.0, 1e-6),
}


def losses_of(criterion):
    assert criterion.classes == FocalClasses(alpha=0.25, gamma=2.0)
    names = ("cost_class", "cost_bbox", "cost_giou", "loss_ce", "loss_bbox", "loss_giou")
    return (*(getattr(criterion, name) for name in names), criterion.giou_epsilon)


@pytest.mark.parametrize("name", ANCHORS)
def test_the_recipe_of_detectors_with_anchors(name):
    experiment = load_config(name)
    optimizer = experiment.optimizer
    paths = flat_shapes(experiment.model)
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
    assert losses_of(experiment.criterion) == PUBLISHED_LOSSES[name.partition("/")[0]]
    denoising, criterion = name.startswith(("dn_detr", "dino")), experiment.criterion
    stage = None
    if name.startswith("dino"):
        stage = FirstStage("interm")
    elif "two_stage" in name:
        stage = FirstStage("enc", class_agnostic=True)
    assert (criterion.denoising, criterion.first_stage) == (denoising, stage)
    placed = [path for path in paths if path.startswith("reference_points/")]
    assert {round(by_part[path], 9) for path in placed} <= {slow}
    if name.startswith("dino"):
        five, swin = "5scale" in name, "swin" in name
        assert experiment.model.dn_images == (1 if five else 2)
        assert getattr(experiment.model.backbone, "remat", False) == swin
    factor = experiment.schedule.build(round(experiment.epochs) * 10)
    last = {50: 40, 12: 11, 24: 20, 36: 30}[experiment.epochs] * 10
    assert (float(factor(last - 1)), float(factor(last))) == (1.0, pytest.approx(0.1))


# The row of the paper's table of ablations → what is another part of the model.
ABLATIONS = {
    "o365_no_fusion_swin_t": lambda model: model.encoder.fusion is Apart,
    "o365_static_queries_swin_t": lambda model: model.selection == "static",
    "o365_no_text_attention_swin_t": lambda model: model.decoder.layer is DeformableDecoderLayer,
    "o365_word_level_swin_t": lambda model: model.text_level == "word",
    "o365_sentence_level_swin_t": lambda model: model.text_level == "sentence",
}


def test_each_ablation_of_grounding_dino_is_one_part_and_nothing_else():
    whole = load_config("grounding_dino/o365_swin_t")
    for row, is_part in ABLATIONS.items():
        other = load_config(f"grounding_dino/{row}")
        assert is_part(other.model)
        assert not is_part(whole.model)
        assert [other.data, other.criterion, other.optimizer, other.schedule] == [
            whole.data, whole.criterion, whole.optimizer, whole.schedule,
        ]  # fmt: skip


@pytest.mark.parametrize("name", ["grounding_dino/o365_swin_t", "grounding_dino/finetune"])
def test_the_recipe_of_grounding_dino(name):
    experiment = load_config(name)
    criterion, optimizer = experiment.criterion, experiment.optimizer
    names = ("cost_class", "cost_bbox", "cost_giou", "loss_ce", "loss_bbox", "loss_giou")
    assert [getattr(criterion, x) for x in names] == [1.0, 5.0, 2.0, 2.0, 5.0, 2.0]
    assert (criterion.giou_epsilon, criterion.nonfinite_cost) == (1e-6, 0.0)
    assert (criterion.denoising, criterion.first_stage) == (False, FirstStage("interm"))
    paths = flat_shapes(experiment.model or models.build(TUNED[name]))
    rates = lookup(optimizer.learning_rates, paths, default=1.0)
    slow = re.compile("^(backbone|bert)/|ref_point_head|sampling_offsets")
    for path, rate in rates.items():
        assert rate * optimizer.learning_rate == pytest.approx(1e-5 if slow.search(path) else 1e-4)
    assert (optimizer.weight_decay, optimizer.decays, optimizer.clip_norm) == (1e-4, (), 0.1)
    frozen = {path.split("/")[0] for path in set(paths) - set(optimizer.trainable(paths))}
    assert frozen == ({"bert"} if name.endswith("finetune") else set())


@pytest.mark.parametrize("name", MASKS)
def test_the_second_stage_trains_the_mask_head_alone(name):
    experiment = load_config(name)
    paths = flat_shapes(experiment.model)
    trainable = experiment.optimizer.trainable(paths)
    assert {path.split("/")[0] for path in trainable} == {"bbox_attention", "mask_head"}
    assert count({path: paths[path] for path in trainable}) == 1_333_657
    taken = lookup(experiment.load, paths, default=True)
    assert {path for path in paths if taken[path]} == set(paths) - set(trainable)
    assert (experiment.epochs, experiment.data.masks) == (25.0, True)
    factor = experiment.schedule.build(25 * 10)
    assert (float(factor(149)), float(factor(150))) == (1.0, pytest.approx(0.1))


def test_both_stages_of_a_panoptic_model_tell_the_same_classes_apart():
    for kind in ("r50", "r50_dc5", "r101"):
        first, second = (
            load_config(f"detr/{kind}_panoptic{stage}_coco") for stage in ("_boxes", "")
        )
        boxes, masks = (flat_shapes(x.model) for x in (first, second))
        assert {path: masks[path] for path in boxes} == boxes
        assert first.data.train == second.data.train == "panoptic:data/coco/train2017"


# Their canvas is that of the original, which pads no further than the largest image.
@pytest.mark.parametrize(
    "name", sorted({*NAMES} - {"dino/bccd_reference", "dino/bccd", "grounding_dino/bccd"})
)
def test_canvases_are_multiples_of_the_stride(name):
    experiment = load_config(name)
    stride = (experiment.model or models.build(TUNED[name])).stride
    assert not [b for b in experiment.data.buckets if b[0] % stride or b[1] % stride]


@pytest.mark.parametrize("name", [name for name in FINETUNE if name != "grounding_dino/finetune"])
def test_what_starts_afresh_for_other_classes_learns_at_the_full_rate(name):
    optimizer = load_config(name).optimizer
    fresh = class_head(TUNED[name], {})
    rates = lookup(optimizer.learning_rates, flat_shapes(models.build(TUNED[name])))
    assert len(fresh) >= 2
    assert {rates[path] for path in fresh} == {1.0}


@pytest.mark.parametrize("recipe", [dab_detr.coco, dino.coco])
def test_epochs_that_were_not_published_are_an_error_that_lists_those_that_were(recipe):
    others = {dab_detr.coco: "12, 24, 50", dino.coco: "12, 24, 36"}
    with pytest.raises(UserError, match=f"have {others[recipe]} epochs; got epochs=30"):
        recipe(models.dino.tiny(), epochs=30)


def test_centres_of_anchors_that_the_paper_fixes_can_be_fixed():
    name = "dab_detr/r50_dc5_fixed_xy_coco"
    assert load_config(name).model.anchors == "uniform"
    assert apply_overrides(load_config(name), ["model.anchors=fixed"]).model.anchors == "fixed"


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

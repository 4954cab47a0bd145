"""What `jaxseg train` refuses: one paragraph that says what to do, and nothing is written."""

import jax
import pytest

from jaxseg.cli import main
from jaxseg.train import session
from tests.train.config import CONFIG
from tests.train.processes import start


@pytest.mark.parametrize("name", ["last", "best"])
def test_weights_that_could_not_be_written_are_told_before_training(
    config, tmp_path, capsys, monkeypatch, name
):
    monkeypatch.setattr(session, "prepare", None)
    (tmp_path / "run" / name).mkdir(parents=True)
    (tmp_path / "run" / name / ".DS_Store").write_text("")
    assert main(["train", str(config), "--workdir", str(tmp_path / "run")]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"run/{name} is not empty and holds other files (.DS_Store)" in said


def fails(capsys, tmp_path, *arguments):
    """The command fails with one paragraph and leaves nothing behind; returns the paragraph."""
    workdir = tmp_path / "failing"
    assert main(["train", *map(str, arguments), "--workdir", str(workdir)]) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert "\n\n" not in said.strip()
    assert not workdir.exists()
    return " ".join(said.split())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.batch_size=6 accumulate=4", "a batch of 6 does not divide"),
        ("mesh.data=3", "does not cover 1 device(s)"),
        ("model.num_classes=4", "the model has 4 classes and the data set 6 (circle, square"),
        ("data.train=nowhere/train.json", "nowhere/train.json"),
        ("data.train=synthetic:shapes?count=0", "count"),
        ("data.buckets=((64,65),)", "multiples of the model's stride 32"),
        ("data.buckets=((32,32),)", "fits none of the buckets ((32, 32),): add a larger one"),
        ("data.buckets=((32,32),)", "data.scale changes all of them together"),
        ("data.scale=0", "data.scale must be above 0; got 0"),
        ("optimizer.frozen=[('backbonne',True)]", "'backbonne' in the table of optimizer.frozen"),
        ("init=nowhere", "nowhere does not exist"),
        ("log_every=0", "log_every must be 1 or more; got 0"),
        ("matmul_precision=exact", "default, high, highest"),
        ("data.eval_limit=0", "data.eval_limit must be 1 or more; got 0"),
        ("data.eval_limit=-1", "data.eval_limit must be 1 or more; got -1"),
        ("data.workers=-1", "data.workers must be 0 or more; got -1"),
        ("data.max_targets=-1", "data.max_targets must be 1 or more; got -1"),
        ("data.image.short_side=0", "data.image.short_side must be 1 or more; got 0"),
        ("data.buckets=()", "data.buckets must have one size or more; got ()"),
        ("data.buckets=((64,0),)", "data.buckets must be 1 or more; got 0"),
        ("data.batch_size=0", "data.batch_size must be 1 or more; got 0"),
        ("steps=none epochs=0", "epochs must be above 0"),
        ("metric=AP5", "metric is one of AP, AP50"),
        ("metric=AP/dog", "with the name of a class; got 'AP/dog'"),
        ("data.on_error=ignore", "data.on_error must be one of raise, skip"),
        ("model.encoder.num_heads=3", "must be a multiple of the number of heads"),
        ("model.decoder.feedforward=8", "cannot be built by any of the named builders"),
        ("epoch=3", "did you mean epochs?"),
    ],
)
@pytest.mark.skipif(jax.device_count() > 1, reason="the errors name the number of devices")
def test_a_mistake_is_one_paragraph_and_writes_nothing(config, capsys, tmp_path, override, message):
    assert message in fails(capsys, tmp_path, config, *override.split())


def test_losses_of_another_family_are_refused_with_the_right_ones(config, capsys, tmp_path):
    said = {
        "criterion=SetCriterion(classes=FocalClasses())": "the model (Detr) has 7 outputs for 6 "
        "classes, which FocalClasses does not score: criterion.classes must be SoftmaxClasses(), "
        "as the configs detr/... do",
        "model=dab_deformable_detr.r50(num_classes=0), backbone='random'": "must be "
        "FocalClasses(), as the configs dab_detr/... do",
        "model=dn_detr.r50(num_classes=0), backbone='random', "
        "criterion=SetCriterion(classes=FocalClasses())": "trains with noised objects, for which "
        "the criterion has no losses: set criterion.denoising, as the configs dn_detr/... do",
        "model=dino.tiny(num_classes=0)": "the model (Dino) has 6 outputs for 6 classes, which "
        "SoftmaxClasses does not score: criterion.classes must be FocalClasses(), as the configs "
        "dino/... do",
        "model=dino.tiny(num_classes=0), criterion=SetCriterion(classes=FocalClasses())": "trains "
        "with the encoder's own predictions, for which the criterion has no losses: set "
        "criterion.first_stage, as",
        "model=dino.tiny(num_classes=0), criterion=SetCriterion(classes=FocalClasses(), "
        "first_stage=FirstStage('interm'))": "trains with noised objects, for which the criterion "
        "has no losses: set criterion.denoising, as",
        "criterion=SetCriterion(first_stage=FirstStage('enc'))": "scores the encoder's own "
        "predictions, which the model (Detr) does not make: set criterion.first_stage=none",
    }
    imports = (
        "import dataclasses\nfrom jaxseg.models import dab_deformable_detr, dino, dn_detr\n"
        "from jaxseg.losses.criterion import FirstStage, FocalClasses, SetCriterion\n"
    )
    for number, (fields, message) in enumerate(said.items()):
        other = tmp_path / f"other{number}.py"
        text = CONFIG.replace("def experiment()", "def before()")
        change = f"def experiment():\n    return dataclasses.replace(before(), {fields})\n"
        other.write_text(imports + text + "\n\n" + change)
        assert message in fails(capsys, tmp_path, other)


def test_an_unknown_config_lists_those_there_are(capsys, tmp_path):
    assert "detr/bccd, detr/finetune" in fails(capsys, tmp_path, "detr/nothing")


def test_finetuning_asks_for_data(capsys, tmp_path):
    text = fails(capsys, tmp_path, "detr/finetune", "init=weights")
    assert "data/train.json does not exist: there is no folder data either" in text
    assert "(data.train=data/train.json: set data.train to your data set" in text


def test_a_backbone_that_is_not_there_is_told_with_one_that_is(capsys, tmp_path):
    data = ("data.train=synthetic:shapes?count=64", "data.val=none", "model.num_classes=0")
    numbered = "data.numbering=contiguous"
    text = fails(capsys, tmp_path, "detr/r50_coco", *data, numbered, "backbone=nothere.pth")
    assert "there is no backbone nothere.pth: give a file or folder, such as torchvision's" in text


def test_finetuning_asks_for_weights(config, capsys, tmp_path):
    data = ("data.train=synthetic:shapes?count=8", "data.val=none")
    assert "add init=FOLDER" in fails(capsys, tmp_path, "detr/finetune", *data)


def test_a_frozen_backbone_asks_for_its_weights(capsys, tmp_path):
    data = ("data.train=synthetic:shapes?count=64", "data.val=none", "data.workers=0")
    classes = ("data.numbering=contiguous", "model.num_classes=0")
    text = fails(capsys, tmp_path, "detr/r50_coco", *data, *classes)
    assert "backbone=FILE" in text


def test_resume_can_be_demanded_or_refused(config, capsys, tmp_path):
    assert "no checkpoint to resume from" in fails(capsys, tmp_path, config, "--resume", "must")
    (tmp_path / "run" / "checkpoints" / "latest" / "3").mkdir(parents=True)
    again = ["train", str(config), "--workdir", str(tmp_path / "run"), "--resume", "never"]
    assert main(again) == 2
    assert "holds a run already" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--distributed",), "the processes did not find each other"),
        (
            ("--coordinator", "localhost:1", "--num-processes", 2, "--process-id", 5),
            "--process-id must be 0 to 1 for --num-processes 2; got 5",
        ),
        (("--num-processes", 2), "several processes need all of"),
    ],
)
def test_processes_that_cannot_find_each_other_say_so(config, tmp_path, arguments, message):
    process = start("jaxseg", "train", config, "--workdir", tmp_path / "run", *arguments)
    said = process.communicate(timeout=100)[0]
    assert process.returncode == 2, said
    assert message in " ".join(said.split())

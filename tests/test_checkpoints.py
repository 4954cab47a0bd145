"""Saving and loading weights: exact, whole or not at all, and clear about what does not fit."""

import argparse
import json
import logging
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxseg import checkpoints, native
from jaxseg.checkpoints import ImageConfig, from_pretrained, load_backbone, save_pretrained
from jaxseg.data.classes import COCO_91, Classes
from jaxseg.errors import UserError
from jaxseg.params import flatten
from jaxseg_convert_torch import read_state_dict, to_state_dict, write_state_dict
from jaxseg_convert_torch.sources import write_official
from tests.small_detr import FIELDS, assert_same, drawn, small

CLASSES = Classes(("red", "white", "platelet"), (1, 2, 5))


@pytest.fixture(scope="module")
def params():
    return drawn(small())


@pytest.fixture(scope="module")
def saved(params, tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights") / "small"
    image = ImageConfig(mean=(0.1, 0.2, 0.3), short_side=480)
    save_pretrained(folder, "detr.r50", FIELDS, params, classes=CLASSES, image=image, probe=False)
    return folder


def test_what_is_saved_is_loaded_bit_for_bit(saved, params):
    loaded = from_pretrained(saved)
    assert_same(flatten(loaded.params), flatten(params))
    assert loaded.model == small()
    assert loaded.classes == CLASSES
    assert loaded.image == ImageConfig(mean=(0.1, 0.2, 0.3), short_side=480)
    assert (loaded.name, loaded.kwargs) == ("detr.r50", FIELDS)
    assert loaded.origin is None


def test_builder_arguments_are_replaced_on_request(saved):
    loaded = from_pretrained(saved, canvas="exact", dtype=jnp.bfloat16)
    assert loaded.model.canvas == "exact"
    assert loaded.model.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded.params)} == {jnp.dtype(jnp.float32)}
    with pytest.raises(UserError, match=r"cannot build detr\.r50"):
        from_pretrained(saved, no_such_field=3)


def test_dtypes_are_saved_by_name(tmp_path, params):
    fields = FIELDS | {"dtype": jnp.bfloat16}
    save_pretrained(tmp_path / "a", "detr.r50", fields, params, probe=False)
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    assert config["kwargs"]["dtype"] == "bfloat16"
    assert from_pretrained(tmp_path / "a").model.dtype == jnp.bfloat16


def test_other_classes_get_a_fresh_head_and_a_warning(saved, params, caplog):
    with caplog.at_level(logging.WARNING, "jaxseg"):
        loaded = from_pretrained(saved, num_classes=5)
    assert "made for 3 classes and is loaded for 5 classes" in caplog.text
    assert "class_embed/bias, class_embed/kernel start from random weights" in caplog.text
    ours, theirs = flatten(loaded.params), flatten(params)
    assert ours["class_embed/kernel"].shape == (16, 6)
    assert np.asarray(ours["class_embed/kernel"]).std() > 0
    others = [path for path in ours if not path.startswith("class_embed")]
    assert_same({p: ours[p] for p in others}, {p: theirs[p] for p in others})
    assert loaded.kwargs["num_classes"] == 5
    assert loaded.classes is None


def test_other_names_for_as_many_classes_get_a_fresh_head_too(saved, params, caplog):
    other = Classes(("cat", "dog", "bird"), (1, 2, 3))
    loaded = from_pretrained(saved, classes=other)
    assert "loaded for 3 others" in caplog.text
    head = np.asarray(loaded.params["class_embed"]["kernel"])
    assert not np.array_equal(head, params["class_embed"]["kernel"])
    assert loaded.classes == other
    caplog.clear()
    same = from_pretrained(saved, classes=CLASSES)
    np.testing.assert_array_equal(
        same.params["class_embed"]["kernel"], params["class_embed"]["kernel"]
    )
    assert not caplog.text


def test_a_wrong_number_of_classes_in_the_config_names_both_shapes(saved, tmp_path):
    config = json.loads((saved / "config.json").read_text())
    config["kwargs"]["num_classes"], config["classes"] = 91, None
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((saved / "model.safetensors").read_bytes())
    with pytest.raises(UserError, match=r"class_embed/bias: \(4,\) came, the model has \(92,\)"):
        from_pretrained(tmp_path)


def test_classes_and_their_number_must_agree(saved, tmp_path, params):
    with pytest.raises(UserError, match="num_classes=5, but 3 classes"):
        from_pretrained(saved, num_classes=5, classes=CLASSES)
    two = Classes(("a", "b"), (0, 1))
    with pytest.raises(UserError, match="2 classes were given for a model of 3"):
        save_pretrained(tmp_path / "a", "detr.r50", FIELDS, params, classes=two, probe=False)


def test_parameters_of_another_model_are_not_saved(tmp_path, params):
    wrong = {**params, "extra": {"scale": np.ones(2, np.float32)}}
    del wrong["query_embed"]
    with pytest.raises(UserError, match=r"(?s)missing    query_embed.*unexpected extra/scale"):
        save_pretrained(tmp_path / "a", "detr.r50", FIELDS, wrong, probe=False)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_save_leaves_the_old_weights_as_they_were(tmp_path, params, monkeypatch):
    folder = tmp_path / "a"
    save_pretrained(folder, "detr.r50", FIELDS, params, probe=False)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(native, "write_json", fail)
    for destination in (folder, tmp_path / "new"):
        with pytest.raises(UserError, match=rf"cannot write {destination}: No space left"):
            save_pretrained(destination, "detr.r50", FIELDS, drawn(small(), 1), probe=False)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_saving_again_replaces_the_weights_but_never_other_files(tmp_path, params):
    folder = tmp_path / "a"
    save_pretrained(folder, "detr.r50", FIELDS, params, probe=False)
    other = drawn(small(), seed=1)
    save_pretrained(folder, "detr.r50", FIELDS, other, probe=False)
    assert_same(flatten(from_pretrained(folder).params), flatten(other))
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds other files \(notes\.txt\)"):
        save_pretrained(folder, "detr.r50", FIELDS, params, probe=False)
    assert (folder / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "os.system"}, "names the model 'os.system'; there are .*detr.r50"),
        ({"version": 99}, "format 99"),
        ({"format": "other"}, "no config.json|model_type|does not describe"),
        ({"kwargs": {"depth": 19}}, "no ResNet-19"),
        ({"image": {"mean": 3, "color": 1}}, "is damaged"),
    ],
)
def test_a_config_can_only_name_known_builders(saved, tmp_path, change, message):
    config = json.loads((saved / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((saved / "model.safetensors").read_bytes())
    with pytest.raises(UserError, match=message):
        from_pretrained(tmp_path)


def test_truncated_weights_and_bad_json_are_named(saved, tmp_path):
    content = (saved / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[: len(content) // 2])
    (tmp_path / "config.json").write_text((saved / "config.json").read_text())
    with pytest.raises(UserError, match=r"model\.safetensors, or it is damaged"):
        from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json is not valid JSON"):
        from_pretrained(tmp_path)


def test_what_is_nowhere_is_an_error_that_says_what_to_give(tmp_path):
    with pytest.raises(UserError, match="give a folder of weights"):
        from_pretrained(tmp_path / "nothing" / "here")
    with pytest.raises(UserError, match=r"has no config\.json"):
        from_pretrained(tmp_path)


@pytest.fixture
def official(tmp_path, params):
    path = tmp_path / "detr-r18-dc5.pth"
    write_state_dict(to_state_dict("detr", params), path)
    return path


def test_an_official_file_is_loaded_with_its_assumptions_said(official, params, caplog):
    loaded = from_pretrained(official, num_heads=2)
    assert_same(flatten(loaded.params), flatten(params))
    assert loaded.name == "detr.r50_dc5"
    assert "assumed dilation=True (its file name says so" in caplog.text
    assert loaded.model == small(dilation=True)
    plain = from_pretrained(official, model="detr.r50", num_heads=2)
    assert plain.model == small()
    with pytest.raises(UserError, match=r"no model 'detr\.r51'"):
        from_pretrained(official, model="detr.r51")


def test_training_arguments_say_what_keys_cannot(tmp_path, params):
    state = {k: torch.from_numpy(v) for k, v in to_state_dict("detr", params).items()}
    args = argparse.Namespace(dilation=True, nheads=2, dropout=0.0, lr=1e-4)
    torch.save({"model": state, "args": args}, tmp_path / "checkpoint.pth")
    loaded = from_pretrained(tmp_path / "checkpoint.pth")
    assert loaded.model == small(dilation=True, dropout=0.0)


def test_published_weights_bring_cocos_names_and_say_so(tmp_path, caplog):
    model = small(num_classes=91)
    write_state_dict(to_state_dict("detr", drawn(model)), tmp_path / "a.safetensors")
    assert from_pretrained(tmp_path / "a.safetensors", num_heads=2).classes == COCO_91
    assert "assumed COCO's class names" in caplog.text


def test_a_native_folder_goes_back_to_the_official_file(official, params, tmp_path):
    source = checkpoints.open_source(official)
    source.kwargs["num_heads"] = 2
    checkpoints.save_source(source, tmp_path / "native", probe=False)
    write_official(from_pretrained(tmp_path / "native"), tmp_path / "back.safetensors")
    assert_same(read_state_dict(tmp_path / "back.safetensors"), read_state_dict(official))


def test_a_backbone_is_taken_from_torchvision_or_from_a_detector(tmp_path, official, params):
    resnet = tmp_path / "resnet18.pth"
    counters = {"bn1.num_batches_tracked": np.asarray(0, np.int64)}
    classifier = {"fc.weight": np.ones((2, 512), np.float32), "fc.bias": np.ones(2, np.float32)}
    state = to_state_dict("resnet", params, prefix="backbone") | counters | classifier
    write_state_dict(state, resnet)
    for path in (resnet, official):
        assert_same(flatten(load_backbone(path, small())), flatten(params["backbone"]))
    with pytest.raises(
        UserError,
        match=r"torchvision ResNet; begin a training with it, .* backbone=\S+resnet18\.pth`",
    ):
        from_pretrained(resnet)
    with pytest.raises(UserError, match=r"missing    layer1\.0\.bn3"):
        load_backbone(resnet, small(depth=50))


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_weights_may_be_read_by_whom_other_new_files_may_be_read(tmp_path, params):
    before = os.umask(0o027)
    try:
        save_pretrained(tmp_path / "new" / "w", "detr.r50", FIELDS, params, probe=False)
        write_state_dict({"a": np.zeros(2)}, tmp_path / "new" / "a.safetensors")
        write_state_dict({"a": np.zeros(2)}, tmp_path / "new" / "a.pth")
    finally:
        os.umask(before)
    paths = sorted((tmp_path / "new").rglob("*"))
    modes = {str(path.relative_to(tmp_path / "new")): path.stat().st_mode & 0o777 for path in paths}
    assert modes.pop("w") == 0o750
    assert modes.keys() == {"a.pth", "a.safetensors", "w/config.json", "w/model.safetensors"}
    assert set(modes.values()) == {0o640}


def test_a_swap_that_fails_leaves_the_old_weights(tmp_path, params, monkeypatch):
    folder = tmp_path / "a"
    save_pretrained(folder, "detr.r50", FIELDS, params, probe=False)
    replace = os.replace

    def fail(source, destination):
        if os.path.basename(source) == "new":
            raise OSError(5, "Input/output error")
        replace(source, destination)

    monkeypatch.setattr(native.os, "replace", fail)
    with pytest.raises(UserError, match="Input/output error; what was there is as it was"):
        save_pretrained(folder, "detr.r50", FIELDS, drawn(small(), 1), probe=False)
    assert_same(flatten(from_pretrained(folder).params), flatten(params))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("config", ['{"model_type": "detr"}', "[1]", None])
def test_a_folder_of_foreign_weights_is_not_replaced(tmp_path, params, config):
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    (tmp_path / "model.safetensors").write_bytes(b"theirs")
    with pytest.raises(UserError, match=r"model\.safetensors, which would be lost"):
        save_pretrained(tmp_path, "detr.r50", FIELDS, params, probe=False)
    assert (tmp_path / "model.safetensors").read_bytes() == b"theirs"


def test_a_place_that_cannot_be_written_to_is_named(tmp_path, params):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*file/a: File exists"):
        save_pretrained(tmp_path / "file" / "a", "detr.r50", FIELDS, params, probe=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": {"names": ["a"], "category_ids": [1]}}, "names 1 classes and its model has 3"),
        ({"kwargs": FIELDS | {"num_heads": 0}}, "num_heads of detr.r50 must be a whole number"),
        ({"model": ["detr.r50"]}, r"names the model \['detr.r50'\]"),
    ],
)
def test_a_config_that_contradicts_itself_is_named(saved, tmp_path, change, message):
    config = json.loads((saved / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((saved / "model.safetensors").read_bytes())
    with pytest.raises(UserError, match=rf"config\.json.* {message}"):
        from_pretrained(tmp_path)


def test_only_a_head_that_does_not_fit_brings_the_hint(saved, tmp_path):
    config = json.loads((saved / "config.json").read_text()) | {"classes": None}
    for name, hinted in (("num_classes", True), ("num_queries", False)):
        changed = config | {"kwargs": FIELDS | {name: 9}}
        (tmp_path / "config.json").write_text(json.dumps(changed))
        (tmp_path / "model.safetensors").write_bytes((saved / "model.safetensors").read_bytes())
        with pytest.raises(UserError, match="misshapen") as caught:
            from_pretrained(tmp_path)
        assert ("pass num_classes=" in str(caught.value)) == hinted


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("detr.r101", r"is no detr\.r101: its backbone is a ResNet-18"),
        ("detr.tiny", r"is no detr\.tiny: .*give detr\.r50_dc5 or detr\.r50"),
    ],
)
def test_a_model_that_the_file_contradicts_is_one_short_error(official, model, message):
    with pytest.raises(UserError, match=message) as caught:
        from_pretrained(official, model=model, num_heads=2)
    assert "\n" not in str(caught.value)


def test_a_model_that_the_training_arguments_contradict_is_an_error(tmp_path, params):
    state = {k: torch.from_numpy(v) for k, v in to_state_dict("detr", params).items()}
    content = {"model": state, "args": argparse.Namespace(dilation=True, nheads=2)}
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"trained with dilation=True; .* give detr\.r50_dc5"):
        from_pretrained(tmp_path / "a.pth", model="detr.r50")


def test_a_model_that_a_native_folder_contradicts_is_an_error(saved):
    with pytest.raises(UserError, match=r"its model is detr\.r50; detr\.r50_dc5 was asked for"):
        from_pretrained(saved, model="detr.r50_dc5")


def test_a_known_number_of_heads_is_not_called_assumed(official, caplog):
    from_pretrained(official, num_heads=2)
    assert "num_heads" not in caplog.text


def test_the_stems_width_is_read_from_the_file(tmp_path):
    model = small(stem=16)
    write_state_dict(to_state_dict("detr", drawn(model)), tmp_path / "a.safetensors")
    assert from_pretrained(tmp_path / "a.safetensors", num_heads=2).model == model


def test_group_normalisation_has_no_official_form(tmp_path):
    model = small(norm="group_norm")
    kwargs = FIELDS | {"norm": "group_norm"}
    made = checkpoints.Pretrained(model, drawn(model), None, ImageConfig(), "detr.r50", kwargs)
    with pytest.raises(UserError, match=r"group normalisation, .*keep it native"):
        write_official(made, tmp_path / "a.pth")
    assert not list(tmp_path.iterdir())


def test_lightnings_checkpoint_loads(tmp_path, params):
    state = {f"model.{k}": torch.from_numpy(v) for k, v in to_state_dict("detr", params).items()}
    state["criterion.empty_weight"] = torch.ones(4)
    torch.save({"state_dict": state, "hyper_parameters": {}}, tmp_path / "a.ckpt")
    source = checkpoints.open_source(tmp_path / "a.ckpt")
    assert source.dropped == ["criterion.empty_weight"]
    assert_same(source.flat, flatten(params))


def test_a_backbone_is_taken_from_native_weights(saved, params):
    for path in (saved, saved / "model.safetensors"):
        assert_same(flatten(load_backbone(path, small())), flatten(params["backbone"]))
    with pytest.raises(UserError, match=r"the backbone of .* does not fit the model"):
        load_backbone(saved, small(depth=50))


def test_json_is_in_utf8_whatever_the_locale(tmp_path):
    script = (
        "import sys, pathlib; from jaxseg.native import read_json, write_json\n"
        "path, names = pathlib.Path(sys.argv[1]), ['B\\xe4r', '\\u732b']\n"
        "write_json(path, names); assert read_json(path) == names"
    )
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", script, str(tmp_path / "a.json")]
    subprocess.run(command, env=os.environ | ascii_only, check=True)
    assert "Bär" in (tmp_path / "a.json").read_text(encoding="utf-8")

"""Hugging Face's Deformable DETR: the same outputs as transformers, both ways."""

import numpy as np
import pytest
from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection

from jaxseg.checkpoints import ImageConfig, Pretrained, from_pretrained, open_source
from jaxseg.cli import main
from jaxseg.data.classes import Classes
from jaxseg.errors import UserError
from jaxseg.models import build
from jaxseg.params import flatten
from jaxseg_convert_torch import read_state_dict, to_state_dict, write_state_dict
from jaxseg_convert_torch.sources import write_huggingface
from tests.small_detr import assert_same, drawn
from tests.small_huggingface import (
    NAMES,
    SIZES,
    differences,
    padded_batch,
    randomise,
    resnet18,
    resnet50,
    single_image,
)

LEVELS = ["stage2", "stage3", "stage4"]
FORMS = {
    "r50_single_scale": {"num_feature_levels": 1},
    "r50": {},
    "r50_refine": {"with_box_refine": True},
    "r50_refine_two_stage": {
        "with_box_refine": True,
        "two_stage": True,
        "two_stage_num_proposals": 9,
    },
}
# In every run: the plain form, and the one with all parts.
QUICK = ("r50", "r50_refine_two_stage")
EACH = [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in FORMS]
SMALL = {
    "depth": 18, "stem": 8, "width": 64, "num_heads": 4, "feedforward": 48, "encoder_layers": 1,
    "decoder_layers": 2, "num_queries": 7, "num_classes": 3,
}  # fmt: skip


def torch_model(backbone=None, **fields):
    stages = LEVELS[-1:] if fields.get("num_feature_levels") == 1 else LEVELS
    config = DeformableDetrConfig(
        use_timm_backbone=False,
        backbone_config=backbone or resnet18(stages),
        d_model=64,
        **SIZES | fields,
    )
    return randomise(DeformableDetrForObjectDetection(config))


@pytest.fixture(scope="module", params=EACH)
def saved(request, tmp_path_factory):
    model = torch_model(**FORMS[request.param])
    folder = tmp_path_factory.mktemp("saved")
    model.save_pretrained(folder)
    return request.param, model, folder


def assert_close(model, pretrained, batch):
    found = differences(model, pretrained.model, pretrained.params, batch)
    assert found["logits"] < 2e-5
    assert found["boxes"] < 1e-5


def test_a_folder_of_transformers_gives_the_same_outputs(saved):
    name, model, folder = saved
    pretrained = from_pretrained(folder)
    assert pretrained.name == f"deformable_detr.{name}"
    assert pretrained.classes == Classes(tuple(NAMES.values()), (None, 1, 2))
    assert_close(model, pretrained, padded_batch())


@pytest.mark.parametrize(
    ("saved", "implementation"),
    [
        pytest.param("r50_single_scale", None, marks=pytest.mark.slow),
        ("r50", None),
        pytest.param("r50_refine", "reference", marks=pytest.mark.slow),
        ("r50_refine_two_stage", None),
    ],
    indirect=["saved"],
)
def test_an_exact_canvas_gives_the_outputs_of_one_image(saved, implementation):
    _, model, folder = saved
    pretrained = from_pretrained(folder, canvas="exact", implementation=implementation)
    assert_close(model, pretrained, single_image())


def test_the_command_converts_there_and_back_bit_for_bit(saved, tmp_path):
    _, _, folder = saved
    native, back = str(tmp_path / "native"), tmp_path / "back"
    assert main(["convert", str(folder), native, "--no-probe"]) == 0
    assert main(["convert", native, str(back), "--to", "huggingface"]) == 0
    weights = "model.safetensors"
    assert_same(read_state_dict(back / weights), read_state_dict(folder / weights))
    model, info = DeformableDetrForObjectDetection.from_pretrained(back, output_loading_info=True)
    assert not any(info.values())
    assert model.config.id2label == NAMES


def test_the_newer_names_of_transformers_5_load_too(saved, tmp_path):
    _, model, folder = saved
    if "save_original_format" not in model.save_pretrained.__code__.co_varnames:
        pytest.skip("this transformers writes the older names only")
    model.save_pretrained(tmp_path, save_original_format=False)
    assert any(".mlp.fc1." in key for key in read_state_dict(tmp_path / "model.safetensors"))
    ours, older = (flatten(from_pretrained(place).params) for place in (tmp_path, folder))
    assert_same(ours, older)


def ours(name, **fields):
    model, kwargs = build(f"deformable_detr.{name}", **SMALL | fields), SMALL | fields
    classes = Classes.from_names("abc")
    params = drawn(model)
    return Pretrained(model, params, classes, ImageConfig(), f"deformable_detr.{name}", kwargs)


@pytest.mark.parametrize("name", EACH)
def test_transformers_loads_what_is_written_with_heads_of_its_own(tmp_path, name):
    pretrained = ours(name)
    write_huggingface(pretrained, tmp_path / "out")
    model, info = DeformableDetrForObjectDetection.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(info.values())
    if name == "r50_refine":  # whose class heads transformers shares unless the file parts them
        assert_close(model.eval(), pretrained, single_image())
    again = from_pretrained(tmp_path / "out")
    assert again.model == pretrained.model
    assert again.classes == pretrained.classes
    assert_same(flatten(again.params), flatten(pretrained.params))


def rewritten(saved_folder, folder, change):
    """The folder with other tensors: what `change` makes of them."""
    folder.mkdir()
    (folder / "config.json").write_bytes((saved_folder / "config.json").read_bytes())
    state = change(read_state_dict(saved_folder / "model.safetensors"))
    write_state_dict(state, folder / "model.safetensors")
    return folder, state


@pytest.mark.parametrize("kept", ["model", "decoder"])
@pytest.mark.parametrize("name", ["r50_refine", "r50_refine_two_stage"])
def test_heads_may_have_the_names_of_the_model_or_of_its_decoder(tmp_path, name, kept):
    pretrained = ours(name)
    write_huggingface(pretrained, tmp_path / "both")

    def keep(state):
        copies = {key for key in state if key.startswith("model.decoder.") and "_embed." in key}
        others = {key.removeprefix("model.decoder.") for key in copies}
        return {k: v for k, v in state.items() if k not in (copies if kept == "model" else others)}

    folder, state = rewritten(tmp_path / "both", tmp_path / "one", keep)
    again = from_pretrained(folder)
    assert_same(flatten(again.params), flatten(pretrained.params))
    write_huggingface(again, tmp_path / "back")
    assert_same(read_state_dict(tmp_path / "back" / "model.safetensors"), state)


def test_class_heads_that_a_file_shares_are_written_once_until_training_parts_them(tmp_path):
    torch_model(with_box_refine=True).save_pretrained(tmp_path / "in")
    pretrained = from_pretrained(tmp_path / "in")
    first, second = (np.asarray(pretrained.params[f"class_embed_{i}"]["bias"]) for i in (0, 1))
    np.testing.assert_array_equal(first, second)
    pretrained.params["class_embed_1"]["bias"] = second + 1
    write_huggingface(pretrained, tmp_path / "out")
    state = read_state_dict(tmp_path / "out" / "model.safetensors")
    assert "class_embed.1.bias" in state
    assert "class_embed.1.weight" not in state
    assert_same(flatten(from_pretrained(tmp_path / "out").params), flatten(pretrained.params))


def test_older_files_list_shared_heads_for_each_layer(tmp_path):
    torch_model(num_feature_levels=1).save_pretrained(tmp_path / "in")

    def repeat(state):
        heads = {k: v for k, v in state.items() if k.startswith(("class_embed", "bbox_embed"))}
        return state | {k.replace("_embed.0.", "_embed.1."): v for k, v in heads.items()}

    folder, state = rewritten(tmp_path / "in", tmp_path / "older", repeat)
    write_huggingface(from_pretrained(folder), tmp_path / "back")
    assert_same(read_state_dict(tmp_path / "back" / "model.safetensors"), state)
    part = {"class_embed.1.bias": state["class_embed.1.bias"] + 1}
    bad, _ = rewritten(folder, tmp_path / "bad", lambda state: state | part)
    with pytest.raises(UserError, match=r"class_embed\.1\.bias: it should repeat class_embed\.0"):
        open_source(bad)


@pytest.mark.parametrize("name", ["r50_refine", "r50_refine_two_stage"])
def test_a_head_that_is_nowhere_is_missing(tmp_path, name):
    torch_model(**FORMS[name]).save_pretrained(tmp_path / "in")
    lost = "bbox_embed.1.layers.2.bias"
    folder, _ = rewritten(
        tmp_path / "in",
        tmp_path / "less",
        lambda state: {k: v for k, v in state.items() if not k.endswith(lost)},
    )
    with pytest.raises(UserError, match=rf"1 problem converting(.|\n)*missing +{lost}"):
        open_source(folder)


def dilate(model):
    """DC5 in place, as timm does it: transformers' own ResNet cannot be built so."""
    first, *others = model.model.backbone.model.encoder.stages[3].layers
    first.shortcut.convolution.stride = first.layer[1].convolution.stride = (1, 1)
    for block in others:
        block.layer[1].convolution.dilation = block.layer[1].convolution.padding = (2, 2)


def test_dc5_has_timms_names_and_the_outputs_of_a_dilated_model(tmp_path):
    model = torch_model(resnet50(LEVELS[-1:]), num_feature_levels=1)
    model.save_pretrained(tmp_path / "plain")
    plain = from_pretrained(tmp_path / "plain")
    dc5 = build("deformable_detr.r50_dc5_single_scale", **plain.kwargs)
    write_huggingface(plain._replace(model=dc5, origin=None), tmp_path / "dc5")
    pretrained = from_pretrained(tmp_path / "dc5")
    assert pretrained.name == "deformable_detr.r50_dc5_single_scale"
    keys = read_state_dict(tmp_path / "dc5" / "model.safetensors")
    assert "model.backbone.conv_encoder.model.layer4.2.conv3.weight" in keys
    dilate(model)
    assert_close(model, pretrained, padded_batch())
    write_huggingface(pretrained, tmp_path / "back")
    assert_same(read_state_dict(tmp_path / "back" / "model.safetensors"), keys)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("r50", {"norm": "group_norm"}, "group normalisation in its ResNet"),
        ("r50", {"num_levels": 2}, "has 1 level, or 3 or more; got num_levels=2"),
        ("r50_dc5_single_scale", {}, "none with a stem of 8 channels"),
        ("r50_dc5_single_scale", {"stem": 64}, "a dilated backbone must be resnet50 or resnet101"),
    ],
)
def test_what_transformers_lacks_is_refused(tmp_path, name, fields, message):
    with pytest.raises(UserError, match=message):
        write_huggingface(ours(name, **fields), tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["dino.r50_4scale", "dab_deformable_detr.r50", "dn_detr.r50"])
def test_models_that_transformers_does_not_have_are_refused(tmp_path, name):
    pretrained = ours("r50")._replace(model=build(name, **SMALL))
    with pytest.raises(
        UserError, match=r"got a (Dino|DabDeformableDetr|DabDetr with labels): write"
    ):
        write_huggingface(pretrained, tmp_path / "out")


def test_an_official_model_goes_to_transformers_and_back(tmp_path):
    pretrained = ours("r50_refine")
    state = to_state_dict("deformable_detr.refine", pretrained.params)
    write_state_dict(state, tmp_path / "official.safetensors")
    official = from_pretrained(tmp_path / "official.safetensors", num_heads=4)
    write_huggingface(official._replace(classes=pretrained.classes), tmp_path / "out")
    again = from_pretrained(tmp_path / "out")
    assert_same(to_state_dict("deformable_detr.refine", again.params), state)

"""Official files of Deformable DETR, DAB-DETR, DN-DETR and DINO, there and back."""

import numpy as np
import pytest

from jaxseg.checkpoints import from_pretrained
from jaxseg.errors import UserError
from jaxseg.models import build
from jaxseg.params import abstract_params, flatten, unflatten
from jaxseg_convert_torch import (
    detect_table,
    read_state_dict,
    revert,
    to_state_dict,
    write_state_dict,
)
from jaxseg_convert_torch.sources import TABLES, official_form, open_foreign, write_official
from tests.small_detr import assert_same, drawn

SMALL = {
    "depth": 18, "stem": 8, "width": 32, "feedforward": 24, "encoder_layers": 1,
    "decoder_layers": 2, "num_queries": 7, "num_classes": 5,
}  # fmt: skip
MODELS = {
    "deformable_detr.r50_single_scale": {},
    "deformable_detr.r50": {},
    "deformable_detr.r50_refine": {},
    "deformable_detr.r50_refine_two_stage": {},
    "dab_detr.r50_3patterns": {},
    "dab_deformable_detr.r50": {"num_patterns": 2},
    "dn_detr.r50": {},
    "dn_detr.deformable_r50": {},
    "dn_detr.encoder_only_r50": {"num_patterns": 2},
    "dino.r50_5scale": {"selection": "static"},
    "dino.r50_4scale": {"shared_heads": False, "selection": "pure", "learned_anchor_size": True},
}
# Keys of the published files (without normalisation counters).
KEYS = {
    "deformable_detr.r50_single_scale": 549,
    "deformable_detr.r50": 561,
    "deformable_detr.r50_refine": 597,
    "deformable_detr.r50_refine_two_stage": 630,
    "dab_detr.r50": 590,
    "dn_detr.r50": 591,
    "dab_deformable_detr.r50": 604,
    "dn_detr.deformable_r50": 605,
    "dn_detr.encoder_only_r50": 627,
    "dino.r50_4scale": 626,
    "dino.r50_5scale": 630,
    "dino.swin_l_4scale": 716,
}


def written(folder, name, **fields):
    model = build(name, **SMALL | fields)
    params = drawn(model)
    path = folder / "weights.safetensors"
    write_state_dict(to_state_dict(official_form(model), params), path)
    return path, params


@pytest.mark.parametrize(("name", "fields"), MODELS.items())
def test_a_file_says_its_model_and_comes_back_bit_for_bit(tmp_path, name, fields):
    path, params = written(tmp_path, name, **fields)
    source = open_foreign(path)
    assert source.name == name
    wanted = SMALL | fields
    if "two_stage" in name or fields.get("selection") == "pure":  # nothing tells their number
        wanted.pop("num_queries")
    assert {k: source.kwargs.get(k, v) for k, v in wanted.items()} == wanted
    assert_same(source.flat, flatten(params))
    pretrained = from_pretrained(path)
    write_official(pretrained, tmp_path / "back.safetensors")
    assert (tmp_path / "back.safetensors").read_bytes() == path.read_bytes()


@pytest.mark.parametrize(("name", "count"), KEYS.items())
def test_written_files_have_the_keys_of_the_published_ones(name, count):
    model = build(name)
    shapes = flatten(abstract_params(model))
    params = {path: np.broadcast_to(np.float32(0), leaf.shape) for path, leaf in shapes.items()}
    state = revert(TABLES[official_form(model)], unflatten(params))
    assert len(state) == count


def test_a_shared_head_that_differs_is_reported(tmp_path):
    path, _ = written(tmp_path, "deformable_detr.r50")
    state = dict(read_state_dict(path))
    state["class_embed.1.bias"] = state["class_embed.1.bias"] + 1
    write_state_dict(state, path)
    with pytest.raises(UserError, match=r"class_embed\.1\.bias: it should repeat"):
        open_foreign(path)


def test_another_model_than_the_files_is_refused(tmp_path):
    path, _ = written(tmp_path, "dino.r50_4scale")
    with pytest.raises(UserError, match=r"is no deformable_detr\.r50: its tensors are those of"):
        open_foreign(path, model="deformable_detr.r50")


def test_the_file_name_or_the_model_says_dilation(tmp_path):
    path, _ = written(tmp_path, "dab_detr.r50_dc5")
    assert not build(open_foreign(path).name).backbone.dilation
    assert build(open_foreign(path, model="dab_detr.r50_dc5").name).backbone.dilation
    dc5 = path.rename(tmp_path / "DAB-DETR-R50-DC5.safetensors")
    source = open_foreign(dc5)
    assert source.name == "dab_detr.r50_dc5"
    assert "dilation=True (its file name says so)" in source.notes


@pytest.mark.parametrize("name", ["dab_detr.r50_dc5", "dn_detr.r50_dc5"])
def test_a_named_model_settles_the_temperature_that_no_tensor_shows(tmp_path, name):
    path, _ = written(tmp_path, name)
    wanted = build(name).position.temperature
    source = open_foreign(path, model=name)
    assert build(source.name, **source.kwargs).position.temperature == wanted
    dc5 = path.rename(tmp_path / "some-dc5.safetensors")
    source = open_foreign(dc5)
    assert build(source.name, **source.kwargs).position.temperature == wanted


def test_conditional_detr_is_named_and_a_file_without_its_config_needs_it(tmp_path):
    with pytest.raises(UserError, match="a checkpoint of Conditional DETR"):
        detect_table(["transformer.decoder.layers.0.ca_qpos_proj.weight"])
    path = tmp_path / "model.safetensors"
    write_state_dict({"model.level_embed": np.zeros((4, 8), np.float32)}, path)
    with pytest.raises(UserError, match=r"give the folder that it lies in, with its config\.json"):
        open_foreign(path)

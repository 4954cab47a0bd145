"""Checkpoint files in the shapes that training scripts leave them in."""

import json

import ml_dtypes
import numpy as np
import pytest
import torch

from jaxseg.errors import UserError
from jaxseg_convert_torch.files import read_checkpoint, read_state_dict, write_state_dict
from tests.small_detr import assert_same


@pytest.mark.parametrize("key", ["model", "state_dict", "model_state_dict", None])
def test_the_model_is_found_beside_other_things(tmp_path, key):
    tensors = {"a.weight": torch.arange(3.0), "b": torch.tensor(2)}
    content = {key: tensors, "epoch": 3} if key else tensors
    torch.save(content, tmp_path / "a.pth")
    read = read_state_dict(tmp_path / "a.pth")
    assert sorted(read) == ["a.weight", "b"]


def test_the_prefix_of_data_parallel_training_is_taken_off(tmp_path):
    torch.save({"module.a": torch.ones(1), "module.b": torch.ones(1)}, tmp_path / "a.pth")
    assert sorted(read_state_dict(tmp_path / "a.pth")) == ["a", "b"]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_is_written_is_read_bit_for_bit(tmp_path, suffix):
    generator = np.random.default_rng(0)
    state = {
        "float": generator.standard_normal((2, 3)).astype(np.float32),
        "half": generator.standard_normal(4).astype(np.float16),
        "bfloat16": generator.standard_normal(4).astype(ml_dtypes.bfloat16),
        "counter": np.asarray(7, np.int64),
    }
    path = tmp_path / f"deep/er/a{suffix}"
    write_state_dict(state, path)
    assert_same(read_state_dict(path), state)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    if suffix == ".pth":
        loaded = torch.load(path, weights_only=True)["model"]
        assert loaded["bfloat16"].dtype == torch.bfloat16
        np.testing.assert_array_equal(loaded["bfloat16"].float(), state["bfloat16"].astype("f4"))


@pytest.mark.parametrize(
    ("content", "message"),
    [([1, 2], "holds a list"), ({"epoch": 3}, "holds no tensors at its top or under")],
)
def test_files_without_a_model_say_what_they_hold(tmp_path, content, message):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(UserError, match=message):
        read_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"weight_map": {"a": "../secret.safetensors"}}, "outside its folder"),
        ({"other": 1}, "no index of shards"),
        ({"weight_map": {"a": "absent.safetensors"}}, r"absent\.safetensors"),
    ],
)
def test_a_bad_index_of_shards_is_named(tmp_path, index, message):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=message):
        read_state_dict(tmp_path)


def test_lightnings_prefix_is_taken_off_beside_a_criterion(tmp_path):
    keys = ["model.a", "model.b", "criterion.empty_weight"]
    torch.save({"state_dict": {key: torch.ones(1) for key in keys}}, tmp_path / "a.ckpt")
    assert sorted(read_state_dict(tmp_path / "a.ckpt")) == ["a", "b", "criterion.empty_weight"]


def test_a_place_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*file/a\.safetensors: \w+"):
        write_state_dict({"a": np.ones(1, np.float32)}, tmp_path / "file" / "a.safetensors")

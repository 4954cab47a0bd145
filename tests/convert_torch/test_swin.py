"""Swin checkpoints of every form: the same outputs, resized windows, and the way back."""

import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen as nn
from transformers import SwinBackbone, SwinConfig, SwinForImageClassification, SwinModel

from jaxseg.backbones.resnet import resnet
from jaxseg.backbones.swin import Swin, swin_t
from jaxseg.checkpoints import load_backbone
from jaxseg.errors import UserError
from jaxseg.params import abstract_params, flatten
from jaxseg_convert_torch import (
    TABLES,
    ConversionError,
    convert,
    detect_table,
    load_state_dict,
    read_state_dict,
    revert,
    to_state_dict,
    write_state_dict,
)
from tests.small_detr import assert_same, drawn

FIELDS = {"width": 8, "depths": (2, 1, 1, 2), "num_heads": (1, 2, 2, 4), "window": 3}
ALL = (0, 1, 2, 3)
FINAL_NORM = {"layernorm.weight", "layernorm.bias"}


def small(**fields):
    return Swin(**FIELDS | {"stages": ALL} | fields)


@functools.cache
def shared():
    """Parameters of the plain small model, not to be changed."""
    return drawn(small())


def microsoft(params):
    """A classifier's file, made of a backbone's parameters."""
    state = to_state_dict("swin", params)
    state = {k: v for k, v in state.items() if not k.startswith("norm")}
    shape = (4, 9, 9)
    masks = {f"layers.{s}.blocks.1.attn_mask": np.zeros(shape, np.float32) for s in range(3)}
    head = {"norm.weight": np.ones(64), "norm.bias": np.ones(64), "head.bias": np.ones(5)}
    return state | masks | {k: v.astype(np.float32) for k, v in head.items()}


class Detector(nn.Module):
    """What `load_backbone` asks of a model."""

    backbone: nn.Module

    def __call__(self, pixels):
        return self.backbone(pixels)


@pytest.mark.parametrize("fields", [{}, {"position_size": 24}, {"dilation": True}], ids=str)
def test_a_detectors_state_dict_comes_back_bit_for_bit(fields):
    model = small(**fields)
    params = drawn(model)
    state = to_state_dict("swin", params)
    assert detect_table(state) == "swin"
    converted = convert(TABLES["swin"], state, model)
    assert_same(flatten(converted.params), flatten(params))
    assert_same(revert(TABLES["swin"], converted.params, converted.origin), state)


def test_the_state_dict_has_the_originals_names_and_layouts():
    params = drawn(small(position_size=24))
    state = to_state_dict("swin", params)
    assert state["patch_embed.proj.weight"].shape == (8, 3, 4, 4)
    assert state["absolute_pos_embed"].shape == (1, 8, 6, 6)
    attention = "layers.1.blocks.0.attn."
    assert state[attention + "qkv.weight"].shape == (48, 16)
    key = params["stage1_0"]["attn"]["k_proj"]["kernel"]
    np.testing.assert_array_equal(state[attention + "qkv.weight"][16:32], key.T)
    index = state[attention + "relative_position_index"]
    assert (index.shape, index.dtype) == ((9, 9), np.int64)
    assert state["layers.2.downsample.reduction.weight"].shape == (64, 128)


def test_an_index_buffer_that_is_another_is_reported():
    state = to_state_dict("swin", shared())
    key = "layers.0.blocks.1.attn.relative_position_index"
    state[key] = state[key].T.copy()
    with pytest.raises(ConversionError, match=rf"unexpected {key}: it differs"):
        load_state_dict("swin", state, small())


def test_a_file_without_index_buffers_comes_back_without_them():
    state = to_state_dict("swin", shared())
    state = {k: v for k, v in state.items() if not k.endswith("_index")}
    converted = convert(TABLES["swin"], state, small())
    assert_same(revert(TABLES["swin"], converted.params, converted.origin), state)


def test_a_classifiers_file_becomes_a_backbone_whose_norms_start_afresh():
    params = dict(shared())
    state = microsoft(params)
    assert detect_table(state) == "swin.classification"
    table = TABLES["swin.classification"]
    converted = convert(table, state, small())
    assert {"head.bias", "norm.weight", "layers.0.blocks.1.attn_mask"} <= set(converted.dropped)
    for stage in ALL:
        fresh = {"scale": np.ones(8 * 2**stage), "bias": np.zeros(8 * 2**stage)}
        np.testing.assert_equal(converted.params.pop(f"norm{stage}"), fresh)
        del params[f"norm{stage}"]
    assert_same(flatten(converted.params), flatten(params))
    kept = {k: v for k, v in state.items() if k not in converted.dropped}
    assert_same(revert(table, converted.params, converted.origin), kept)


def test_a_norm_that_was_trained_does_not_go_back_into_a_classifier():
    with pytest.raises(ConversionError, match=r"norm1/scale: in the official model it is always 1"):
        to_state_dict("swin.classification", shared())


def test_timms_mergings_are_counted_one_stage_later():
    params = shared()
    state = {}
    for key, value in to_state_dict("swin", params).items():
        head, _, rest = key.partition(".downsample.")
        if rest:
            key = f"layers.{int(head[-1]) + 1}.downsample.{rest}"
        if not key.startswith("norm") and not key.endswith("_index"):
            state[key] = value
    state |= {"norm.weight": np.ones(64, np.float32), "head.fc.bias": np.ones(5, np.float32)}
    assert detect_table(state) == "swin.timm"
    ours = flatten(load_state_dict("swin.timm", state, small()))
    assert_same(
        {k: v for k, v in ours.items() if not k.startswith("norm")},
        {k: v for k, v in flatten(params).items() if not k.startswith("norm")},
    )


def test_bias_tables_of_another_window_are_resized_as_torch_does_it():
    state = to_state_dict("swin", drawn(small(window=7)))
    converted = convert(TABLES["swin"], state, small(window=12))
    assert len(converted.resized) == 6
    key = "layers.3.blocks.1.attn.relative_position_bias_table"
    grid = torch.from_numpy(state[key]).T.reshape(1, 4, 13, 13)
    wanted = torch.nn.functional.interpolate(grid, (23, 23), mode="bicubic")
    ours = converted.params["stage3_1"]["attn"]["relative_position_bias_table"]
    np.testing.assert_allclose(ours, wanted.reshape(4, -1).T, atol=1e-6)
    back = revert(TABLES["swin"], converted.params, converted.origin)
    assert back["layers.3.blocks.1.attn.relative_position_index"].shape == (144, 144)


def torch_swin(kind, **fields):
    """A small transformers Swin whose weights are all random and of some size."""
    torch.manual_seed(0)
    config = SwinConfig(
        image_size=48,
        patch_size=4,
        embed_dim=8,
        depths=[2, 2],
        num_heads=[1, 2],
        window_size=3,
        out_features=["stage1", "stage2"],
        **fields,
    )
    model = kind(config)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.normal_(1 if tensor.ndim == 1 else 0, tensor[0].numel() ** -0.5 / 2)
    return model.eval()


def run_torch(model, pixels):
    with torch.no_grad():
        return model(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()))


def run_ours(model, params, pixels):
    with jax.default_matmul_precision("highest"):
        return jax.jit(model.apply)({"params": params}, jnp.asarray(pixels))


# Where a map is no larger than a window, transformers would shrink it and not shift; 3 × 3
# windows on maps of 13 × 10 and 7 × 5 tokens keep it from that.
@pytest.mark.parametrize("original", [True, False], ids=["names of 4.46", "names of 5"])
def test_a_backbone_of_transformers_gives_the_same_maps(tmp_path, original):
    theirs = torch_swin(SwinBackbone)
    theirs.save_pretrained(tmp_path, save_original_format=original)
    state = read_state_dict(tmp_path)
    assert detect_table(state) == "swin.huggingface"
    model = small(depths=(2, 2), num_heads=(1, 2), stages=(0, 1))
    table = TABLES["swin.huggingface"]
    converted = convert(table, state, model)
    kept = {k: v for k, v in state.items() if k not in converted.dropped}
    assert_same(revert(table, converted.params, converted.origin), kept)
    assert {key.removeprefix("swin.") for key in converted.dropped} <= FINAL_NORM
    pixels = np.random.default_rng(0).standard_normal((2, 49, 40, 3)).astype(np.float32)
    wanted = run_torch(theirs, pixels).feature_maps
    for ours, map_ in zip(run_ours(model, converted.params, pixels), wanted, strict=True):
        np.testing.assert_allclose(ours, map_.permute(0, 2, 3, 1), atol=2e-5)
        assert map_.std(dim=(2, 3)).mean() > 0.1


def test_absolute_positions_of_transformers_are_added(tmp_path):
    theirs = torch_swin(SwinModel, use_absolute_embeddings=True)
    theirs.save_pretrained(tmp_path)
    model = small(depths=(2, 2), num_heads=(1, 2), stages=(1,), position_size=48)
    state = read_state_dict(tmp_path)
    assert detect_table(state) == "swin.huggingface_classification"
    params = load_state_dict("swin.huggingface_classification", state, model)
    final = {"scale": state["layernorm.weight"], "bias": state["layernorm.bias"]}
    pixels = np.random.default_rng(0).standard_normal((1, 48, 48, 3)).astype(np.float32)
    (ours,) = run_ours(model, params | {"norm1": final}, pixels)
    wanted = run_torch(theirs, pixels).last_hidden_state.reshape(1, 6, 6, 16)
    np.testing.assert_allclose(ours, wanted, atol=2e-5)


def test_index_buffers_of_older_transformers_are_known(tmp_path):
    params = shared()
    state = to_state_dict("swin.huggingface", params)
    key = "encoder.layers.0.blocks.0.attention.self.relative_position_index"
    assert state[key].dtype == np.int64
    converted = convert(TABLES["swin.huggingface"], state, small())
    assert_same(flatten(converted.params), flatten(params))
    assert "absent" not in converted.origin


def test_a_training_begins_with_any_of_them(tmp_path, caplog):
    params = shared()
    model = Detector(small(stages=(1, 2, 3)))
    shapes = flatten(abstract_params(model)["backbone"])
    write_state_dict(microsoft(params), tmp_path / "swin_tiny.pth")
    loaded = flatten(load_backbone(tmp_path / "swin_tiny.pth", model))
    assert sorted(loaded) == sorted(shapes)
    bias = "stage3_1/attn/v_proj/bias"
    np.testing.assert_array_equal(loaded[bias], flatten(params)[bias])

    state = {k: v for k, v in to_state_dict("swin", params).items() if "norm0" not in k}
    whole = {f"backbone.0.{k}": v for k, v in state.items()} | {"other.weight": np.ones(3)}
    write_state_dict(whole, tmp_path / "dino.safetensors")
    taken = flatten(load_backbone(tmp_path / "dino.safetensors", model))
    flat = {k: v for k, v in flatten(params).items() if not k.startswith("norm0")}
    assert_same(taken, flat)

    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        load_backbone(tmp_path / "swin_tiny.pth", Detector(small(stages=(1, 2, 3), window=4)))
    assert "positions resized to the model's size: 6 tensors" in caplog.text


def test_a_dilated_swin_takes_all_but_its_last_stage(tmp_path):
    params = shared()
    write_state_dict(microsoft(params), tmp_path / "swin.safetensors")
    loaded = load_backbone(tmp_path / "swin.safetensors", Detector(small(dilation=True)))
    assert "stage2_0" in loaded
    assert not [name for name in loaded if name.startswith(("stage3", "downsample2"))]


def test_classifiers_of_transformers_are_taken_too(tmp_path):
    torch_swin(SwinForImageClassification).save_pretrained(tmp_path)
    backbone = small(depths=(2, 2), num_heads=(1, 2), stages=(0, 1))
    loaded = load_backbone(tmp_path, Detector(backbone))
    assert sorted(flatten(loaded)) == sorted(flatten(abstract_params(backbone)))


def test_another_backbones_file_is_one_sentence(tmp_path):
    write_state_dict(microsoft(shared()), tmp_path / "swin.safetensors")
    with pytest.raises(UserError, match="the model's backbone is a ResNet: give the file of a"):
        load_backbone(tmp_path / "swin.safetensors", Detector(resnet(18)))


def test_every_tensor_of_a_published_size_has_a_name():
    model = swin_t(stages=ALL)
    table = TABLES["swin"]
    keys = [table.key(path) for path in flatten(abstract_params(model))]
    assert len(set(keys)) == len(keys) == 177 + 12 * 4
    assert None not in keys

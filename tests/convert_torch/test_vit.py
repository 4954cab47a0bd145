"""Plain ViT checkpoints: the same outputs, resized positions, and the way back."""

import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen as nn
from transformers import VitDetBackbone, VitDetConfig

from jaxseg.backbones.vit import ViT
from jaxseg.checkpoints import load_backbone
from jaxseg.necks.simple_feature_pyramid import PyramidBackbone, SimpleFeaturePyramid
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

FIELDS = {
    "width": 16,
    "depth": 2,
    "num_heads": 2,
    "global_blocks": (1,),
    "patch": 8,
    "window": 3,
    "image_size": 64,
    "position_size": 32,
}


def small(**fields):
    return ViT(**FIELDS | fields)


def with_pyramid():
    return PyramidBackbone(small(), SimpleFeaturePyramid(6))


@functools.cache
def shared():
    """Parameters of the plain small model, not to be changed."""
    return drawn(small())


def mae(params):
    """A pre-trained file, made of a backbone's parameters: no relative positions, a class token."""
    state = to_state_dict("vit", params)
    state = {k: v for k, v in state.items() if "rel_pos" not in k}
    final = {"norm.weight": np.ones(16, np.float32), "norm.bias": np.ones(16, np.float32)}
    return state | final | {"cls_token": np.ones((1, 1, 16), np.float32)}


class Detector(nn.Module):
    """What `load_backbone` asks of a model."""

    backbone: nn.Module

    def __call__(self, pixels):
        return self.backbone(pixels)


@pytest.mark.parametrize("table", ["vit", "vit.huggingface", "vit.pyramid"])
def test_every_table_is_undone_bit_for_bit(table):
    model = with_pyramid() if table == "vit.pyramid" else small()
    params = drawn(model)
    state = to_state_dict(table, params)
    assert detect_table(state) == table
    converted = convert(TABLES[table], state, model)
    assert_same(flatten(converted.params), flatten(params))
    assert_same(revert(TABLES[table], converted.params, converted.origin), state)
    assert not converted.resized


def test_the_state_dict_has_the_originals_names_and_layouts():
    state = to_state_dict("vit.pyramid", drawn(with_pyramid()))
    assert state["net.pos_embed"].shape == (1, 17, 16)  # nothing reads the class token's
    np.testing.assert_array_equal(state["net.pos_embed"][0, 0], 0)
    assert state["net.blocks.1.attn.rel_pos_w"].shape == (15, 8)
    assert state["net.blocks.1.attn.qkv.weight"].shape == (48, 16)
    assert state["simfp_2.0.weight"].shape == (16, 8, 2, 2)
    assert state["simfp_2.3.bias"].shape == (4,)
    assert state["simfp_5.2.norm.weight"].shape == (6,)


def test_a_pre_trained_file_starts_without_relative_positions():
    state = mae(shared())
    assert detect_table(state) == "vit.mae"
    converted = convert(TABLES["vit.mae"], state, small())
    assert converted.dropped == ["cls_token", "norm.bias", "norm.weight"]
    flat = flatten(converted.params)
    for path, value in flatten(shared()).items():
        np.testing.assert_array_equal(flat[path], 0 if "rel_pos" in path else value)
    with pytest.raises(ConversionError, match=r"rel_pos_h: in the official model it is always 0"):
        to_state_dict("vit.mae", shared())


def test_positions_of_other_sizes_are_resized_as_torch_does_it():
    state = to_state_dict("vit", shared())
    larger = small(image_size=96, position_size=48, window=4)
    converted = convert(TABLES["vit"], state, larger)
    assert len(converted.resized) == 5  # two blocks of two axes, and the absolute ones
    resize = torch.nn.functional.interpolate

    grid = torch.from_numpy(state["pos_embed"][0, 1:].reshape(4, 4, 16).copy())
    wanted = resize(grid.permute(2, 0, 1)[None], (6, 6), mode="bicubic").permute(0, 2, 3, 1)
    np.testing.assert_allclose(converted.params["position_embed"], wanted, atol=5e-6)

    axis = torch.from_numpy(state["blocks.1.attn.rel_pos_h"].copy())  # 15 offsets
    wanted = resize(axis.T[None], 23, mode="linear")[0].T
    ours = converted.params["block_1"]["attn"]["rel_pos_h"]
    np.testing.assert_allclose(ours, wanted, atol=1e-6)


def test_positions_that_are_no_grid_are_misshapen():
    state = to_state_dict("vit", shared())
    state["pos_embed"] = state["pos_embed"][:, :7]
    with pytest.raises(ConversionError, match=r"misshapen  pos_embed: \(1, 7, 16\) came"):
        load_state_dict("vit", state, small())


# Maps of 5 × 7 and 8 × 8 tokens: windows with and without filling, and positions resized or not.
@pytest.mark.parametrize("size", [(40, 56), (64, 64)])
def test_transformers_gives_the_same_map(tmp_path, size):
    torch.manual_seed(0)
    config = VitDetConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=64,
        pretrain_image_size=32,
        patch_size=8,
        window_block_indices=[0],
        window_size=3,
        use_relative_position_embeddings=True,
        use_absolute_position_embeddings=True,
    )
    theirs = VitDetBackbone(config).eval()
    with torch.no_grad():
        for tensor in theirs.parameters():
            tensor.normal_(1 if tensor.ndim == 1 else 0, tensor[0].numel() ** -0.5)
    theirs.save_pretrained(tmp_path)
    state = read_state_dict(tmp_path)
    assert detect_table(state) == "vit.huggingface"
    params = load_state_dict("vit.huggingface", state, small())
    pixels = np.random.default_rng(0).standard_normal((2, *size, 3)).astype(np.float32)
    with torch.no_grad():
        (wanted,) = theirs(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())).feature_maps
    with jax.default_matmul_precision("highest"):
        (ours,) = jax.jit(small().apply)({"params": params}, jnp.asarray(pixels))
    np.testing.assert_allclose(ours, wanted.permute(0, 2, 3, 1), atol=3e-5)
    assert wanted.std(dim=(2, 3)).mean() > 0.1


def test_a_training_begins_with_a_pre_trained_net_and_a_pyramid_of_its_own(tmp_path, caplog):
    write_state_dict(mae(shared()), tmp_path / "mae.safetensors")
    with caplog.at_level(logging.WARNING):
        loaded = load_backbone(tmp_path / "mae.safetensors", Detector(with_pyramid()))
    assert list(loaded) == ["net"]
    assert sorted(flatten(loaded["net"])) == sorted(flatten(abstract_params(small())))
    assert not caplog.records


def test_a_detectors_net_and_pyramid_are_taken_together(tmp_path):
    params = drawn(with_pyramid())
    state = {f"backbone.{k}": v for k, v in to_state_dict("vit.pyramid", params).items()}
    state["roi_heads.weight"] = np.ones((2, 2), np.float32)
    write_state_dict(state, tmp_path / "vitdet.safetensors")
    loaded = load_backbone(tmp_path / "vitdet.safetensors", Detector(with_pyramid()))
    assert_same(flatten(loaded), flatten(params))

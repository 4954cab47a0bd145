"""Segment Anything: Hugging Face's model and the official files, there and back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import (
    SamConfig,
    SamMaskDecoderConfig,
    SamModel,
    SamPromptEncoderConfig,
    SamVisionConfig,
)

from jaxseg.checkpoints import from_pretrained, load_backbone, save_pretrained
from jaxseg.errors import UserError
from jaxseg.models import build
from jaxseg.params import abstract_params, flatten, unflatten
from jaxseg.structures import Images, Prompts
from jaxseg_convert_torch import TABLES, revert, to_state_dict, write_state_dict
from jaxseg_convert_torch.sources import open_foreign, write_huggingface, write_official
from tests.quick import quick_jit
from tests.small_detr import assert_same, drawn

SMALL = {
    "encoder_width": 48, "encoder_depth": 3, "encoder_heads": 3, "global_blocks": (2,),
    "image_size": 80, "patch": 16, "window": 3, "mlp_ratio": 2.0, "width": 32,
    "num_heads": 4, "feedforward": 24, "mask_channels": 8, "iou_width": 16,
}  # fmt: skip
KEYS = {"sam.vit_b": 314, "sam.vit_l": 482, "sam.vit_h": 594}
SIDE = 80


def huggingface(epsilon=1e-6, **vision):
    """A small model with weights of a size that shows in its masks."""
    config = SamConfig(
        vision_config=SamVisionConfig(
            hidden_size=48, output_channels=32, num_hidden_layers=3, num_attention_heads=3,
            image_size=SIDE, patch_size=16, window_size=3, global_attn_indexes=[2], mlp_dim=96,
            num_pos_feats=16, **vision,
        ),
        prompt_encoder_config=SamPromptEncoderConfig(
            hidden_size=32, image_size=SIDE, patch_size=16, mask_input_channels=8
        ),
        mask_decoder_config=SamMaskDecoderConfig(
            hidden_size=32, mlp_dim=24, num_attention_heads=4, iou_head_hidden_dim=16,
            layer_norm_eps=epsilon,
        ),
    )  # fmt: skip
    model = SamModel(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            scale = 1.0 if "embed" in name else 0.15
            shift = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            tensor.copy_(shift + scale * torch.randn(tensor.shape, generator=generator))
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("huggingface")
    huggingface().save_pretrained(path)
    return path


def some_prompts(kind):
    rng = np.random.default_rng(0)
    given = {}
    if "points" in kind:
        given["points"] = rng.uniform(0, SIDE, (2, 3, 2, 2)).astype(np.float32)
        given["labels"] = rng.integers(-1, 2, (2, 3, 2))
    if "boxes" in kind:
        corners = np.sort(rng.uniform(0, SIDE, (2, 3, 2, 2)), 2)
        given["boxes"] = corners.reshape(2, 3, 4).astype(np.float32)
    return given


@pytest.mark.parametrize("kind", ["points", "boxes", "points and boxes"])
@pytest.mark.parametrize("epsilon", [1e-6, 1e-5])
def test_huggingfaces_model_has_the_same_masks(tmp_path, kind, epsilon):
    theirs = huggingface(epsilon)
    theirs.save_pretrained(tmp_path)
    ours = from_pretrained(tmp_path)
    pixels = np.random.default_rng(1).normal(size=(2, SIDE, SIDE, 3)).astype(np.float32)
    given = some_prompts(kind)
    names = {"points": "input_points", "labels": "input_labels", "boxes": "input_boxes"}
    with torch.no_grad():
        wanted = theirs(
            pixel_values=torch.tensor(pixels).permute(0, 3, 1, 2),
            **{names[name]: torch.tensor(value) for name, value in given.items()},
        )
    images = Images(jnp.asarray(pixels), jnp.ones(pixels.shape[:3], bool))
    prompts = Prompts(**{name: jnp.asarray(value) for name, value in given.items()})
    with jax.default_matmul_precision("highest"):
        found = quick_jit(ours.model.apply)({"params": ours.params}, images, prompts).multiple
    scale = np.abs(wanted.pred_masks.numpy()).max()
    np.testing.assert_allclose(found.logits, wanted.pred_masks, rtol=0, atol=2e-5 * scale)
    np.testing.assert_allclose(found.iou, wanted.iou_scores, rtol=0, atol=2e-5)


def test_a_mask_prompt_is_huggingfaces(folder):
    theirs, ours = huggingface(), from_pretrained(folder)
    rng = np.random.default_rng(1)
    embedding = jnp.asarray(rng.normal(size=(1, 5, 5, 32)), jnp.float32)
    mask = rng.normal(size=(1, 1, 20, 20)).astype(np.float32)
    with torch.no_grad():
        wanted = theirs(
            image_embeddings=torch.tensor(np.asarray(embedding)).permute(0, 3, 1, 2),
            input_masks=torch.tensor(mask),
            multimask_output=False,
        )
    prompts = Prompts(masks=jnp.asarray(mask))
    with jax.default_matmul_precision("highest"):
        found = ours.model.apply({"params": ours.params}, embedding, prompts, method="decode")
    scale = np.abs(wanted.pred_masks.numpy()).max()
    np.testing.assert_allclose(found.single.logits, wanted.pred_masks, rtol=0, atol=2e-5 * scale)


def test_a_folder_comes_back_bit_for_bit_and_loads_there(tmp_path, folder):
    ours = from_pretrained(folder)
    assert ours.classes is None
    assert (ours.image.short_side, ours.image.long_side) == (SIDE, SIDE)
    count = write_huggingface(ours, tmp_path / "back")
    back = SamModel.from_pretrained(tmp_path / "back").state_dict()
    there = huggingface().state_dict()
    assert set(back) == set(there)
    assert count >= len(there) - 1  # one tensor has two names
    for name, tensor in there.items():
        assert torch.equal(back[name], tensor), name


def test_weights_of_either_form_serve_the_other(tmp_path, folder):
    ours = from_pretrained(folder, decoder_epsilon=1e-5)
    said = []
    write_official(ours, tmp_path / "sam.safetensors", said.append)
    assert said == []
    again = from_pretrained(tmp_path / "sam.safetensors", num_heads=4)
    assert_same(flatten(again.params), flatten(ours.params))
    assert again.model == ours.model
    write_official(from_pretrained(folder), tmp_path / "other.safetensors", said.append)
    (told,) = said
    assert "epsilon 1e-05" in told


def test_an_official_file_says_its_sizes_and_comes_back_bit_for_bit(tmp_path):
    model = build("sam.vit_h", **SMALL)
    params = drawn(model)
    path = tmp_path / "sam.safetensors"
    write_state_dict(to_state_dict("sam", params), path)
    source = open_foreign(path, num_heads=4)
    rebuilt = build(source.name, **source.kwargs)
    assert rebuilt == model
    assert "num_heads=8 (its shapes cannot tell)" in open_foreign(path).notes
    assert_same(source.flat, flatten(params))
    write_official(from_pretrained(path, num_heads=4), tmp_path / "back.safetensors")
    assert (tmp_path / "back.safetensors").read_bytes() == path.read_bytes()
    with pytest.raises(UserError, match=r"is no detr\.r50: its tensors are those of sam\."):
        open_foreign(path, model="detr.r50")


@pytest.mark.parametrize(("name", "count"), KEYS.items())
def test_written_files_have_the_keys_of_the_published_ones(name, count):
    shapes = flatten(abstract_params(build(name)))
    params = {path: np.broadcast_to(np.float32(0), leaf.shape) for path, leaf in shapes.items()}
    assert len(revert(TABLES["sam"], unflatten(params))) == count


def test_an_image_encoder_begins_as_maes(tmp_path):
    """MAE has 14 × 14 positions and a class token, and no relative positions."""
    vit = build("sam.vit_h", **SMALL).image_encoder.vit
    pretrained = drawn(vit.clone(position_size=48, relative=False))
    write_state_dict(to_state_dict("vit.mae", pretrained), tmp_path / "mae.safetensors")
    said = []
    model = build("sam.vit_h", **SMALL)
    loaded = load_backbone(tmp_path / "mae.safetensors", model, said.append)
    shapes = flatten(abstract_params(model)["image_encoder"]["vit"])
    flat = flatten(loaded)
    assert {path: leaf.shape for path, leaf in flat.items()} == {
        path: leaf.shape for path, leaf in shapes.items()
    }
    assert not any(np.any(leaf) for path, leaf in flat.items() if "rel_pos" in path)
    same = "block_1/mlp/linear1/kernel"
    np.testing.assert_array_equal(flat[same], flatten(pretrained)[same])
    assert "positions resized" in said[0]


def test_native_weights_carry_their_proof(tmp_path):
    model = build("sam.tiny")
    params = drawn(model)
    save_pretrained(tmp_path / "weights", "sam.tiny", {}, params)
    again = from_pretrained(tmp_path / "weights")
    assert_same(flatten(again.params), flatten(params))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"qkv_bias": False}, "vision_config.qkv_bias must be True; got False"),
        ({"hidden_act": "relu"}, "vision_config.hidden_act must be 'gelu'; got 'relu'"),
    ],
)
def test_a_config_that_cannot_be_reproduced_is_refused_by_its_field(tmp_path, change, message):
    huggingface(**change).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=message):
        open_foreign(tmp_path)

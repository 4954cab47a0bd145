"""DETR with masks: transformers' outputs, official files, both ways."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import DetrConfig, DetrForSegmentation, ResNetConfig

from jaxseg.checkpoints import ImageConfig, Pretrained, from_pretrained, open_source
from jaxseg.data.classes import COCO_PANOPTIC, Classes
from jaxseg.errors import UserError
from jaxseg.models import build
from jaxseg.params import flatten
from jaxseg.structures import Images
from jaxseg_convert_torch import TABLES, detect_table, read_state_dict, revert
from jaxseg_convert_torch.huggingface import read_config
from jaxseg_convert_torch.infer import infer_detr
from jaxseg_convert_torch.sources import write_huggingface, write_official
from tests.small_detr import FIELDS, assert_same, drawn

NAMES = {0: "N/A", 1: "cell", 2: "water"}
STUFF = Classes(("cell", "sky", "N/A"), (4, 7, None), {1})
INSTANCE = "detr.r50_instance"
SIZES = FIELDS | {"width": 64, "num_heads": 8}


def torch_segmentation():
    """A small transformers DETR with masks whose statistics and weights are all random."""
    torch.manual_seed(0)
    backbone = ResNetConfig(
        embedding_size=64,
        hidden_sizes=[64, 128, 256, 512],
        depths=[2, 2, 2, 2],
        layer_type="basic",
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = DetrConfig(
        use_timm_backbone=False,
        backbone_config=backbone,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=8,
        decoder_attention_heads=8,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        num_queries=7,
        id2label=NAMES,
    )
    model = DetrForSegmentation(config)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.2, 2.0)
            elif name.endswith(("running_mean", "bias")):
                tensor.normal_(0, 0.1)
            elif tensor.ndim > 1:
                tensor.normal_(0, 1 if "embeddings" in name else (2 / tensor[0].numel()) ** 0.5)
            # Attention is small beside the features: as drawn, all queries' masks would be equal.
            if name.endswith(("input_projection.weight", "adapter.weight")):
                tensor.mul_(1e-3)
            elif name.startswith("bbox_attention") and tensor.ndim > 1:
                tensor.mul_(6)
    return model.eval()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    model = torch_segmentation()
    folder = tmp_path_factory.mktemp("saved")
    model.save_pretrained(folder)
    return model, folder


def assert_parity(model, pretrained):
    """Two images on one canvas, the second one padded; returns their mask logits."""
    pixels = np.random.default_rng(0).standard_normal((2, 70, 101, 3)).astype(np.float32)
    mask = np.zeros((2, 70, 101), bool)
    mask[0], mask[1, :55, :64] = True, True
    pixels *= mask[..., None]
    with torch.no_grad():
        theirs = model(
            pixel_values=torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()),
            pixel_mask=torch.from_numpy(mask.astype(np.int64)),
        )
    with jax.default_matmul_precision("highest"):
        ours = jax.jit(pretrained.model.apply)(
            {"params": pretrained.params}, Images(jnp.asarray(pixels), jnp.asarray(mask))
        )
    masks = pretrained.model.mask_logits(ours)
    np.testing.assert_allclose(ours.logits[-1], theirs.logits, atol=2e-5)
    np.testing.assert_allclose(ours.boxes[-1], theirs.pred_boxes, atol=1e-5)
    # Group norms of small maps divide by small deviations, which magnifies rounding.
    np.testing.assert_allclose(masks, theirs.pred_masks, atol=5e-4)
    return theirs.pred_masks


def test_a_folder_of_transformers_gives_the_same_masks_and_goes_back_bit_for_bit(saved):
    model, folder = saved
    pretrained = from_pretrained(folder)
    masks = assert_parity(model, pretrained)
    assert masks.std(dim=1).mean() > 0.01  # queries differ: no constants were compared
    assert pretrained.name == INSTANCE
    source = open_source(folder)
    state = revert(TABLES[source.origin["table"]], pretrained.params, source.origin)
    assert_same(state, read_state_dict(folder / "model.safetensors"))


def test_the_newer_names_of_transformers_5_load_too(saved, tmp_path):
    model, folder = saved
    if "save_original_format" not in model.save_pretrained.__code__.co_varnames:
        pytest.skip("this transformers writes the older names only")
    model.save_pretrained(tmp_path, save_original_format=False)
    keys = read_state_dict(tmp_path / "model.safetensors")
    assert any("fpn_stages.2.refine.norm" in key for key in keys)
    ours, older = (flatten(from_pretrained(place).params) for place in (tmp_path, folder))
    assert_same(ours, older)


def ours(classes=STUFF, **fields):
    fields = SIZES | fields
    model = build(INSTANCE, **fields)
    return Pretrained(model, drawn(model), classes, ImageConfig(), INSTANCE, fields)


def test_transformers_loads_what_is_written_and_stuff_comes_back(tmp_path):
    pretrained = ours()
    write_huggingface(pretrained, tmp_path / "out")
    model = DetrForSegmentation.from_pretrained(tmp_path / "out").eval()
    assert_parity(model, pretrained)
    again = from_pretrained(tmp_path / "out")
    assert again.classes == STUFF
    assert again.model == pretrained.model
    assert_same(flatten(again.params), flatten(pretrained.params))


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_an_official_file_comes_back_with_its_number_of_heads(tmp_path, suffix):
    pretrained = ours(num_heads=16)
    path = tmp_path / f"mine.{suffix}"
    write_official(pretrained, path)
    state = read_state_dict(path)
    assert "detr.transformer.encoder.layers.0.self_attn.in_proj_weight" in state
    assert state["mask_head.lay1.weight"].shape == (80, 80, 3, 3)
    assert detect_table(state) == "detr.segmentation"
    again = from_pretrained(path)
    assert again.model == pretrained.model
    assert_same(flatten(again.params), flatten(pretrained.params))
    with pytest.raises(UserError, match="a mask head for 16 attention heads; num_heads=8"):
        from_pretrained(path, num_heads=8)
    # One name has both dilations here, and no argument of the file tells: plain unless it says so.
    for name, dilation in (("mine.pth", False), ("mine-dc5.pth", True)):
        inferred = infer_detr(state, {}, name)
        assert (inferred.name, inferred.kwargs.get("dilation", False)) == (INSTANCE, dilation)
    assert "dilation" not in infer_detr(state, {}, "mine-dc5.pth", INSTANCE).kwargs


def test_250_labels_are_the_published_things_and_stuff(tmp_path):
    path = tmp_path / "detr-panoptic.safetensors"
    count = write_official(ours(None, num_classes=250), path)
    assert count == len(read_state_dict(path))
    source = open_source(path)
    assert source.name == "detr.r50_panoptic"
    assert source.classes == COCO_PANOPTIC
    assert "things and stuff" in source.notes[-1]


PUBLISHED = {
    "architectures": ["DetrForSegmentation"],
    "model_type": "detr",
    "id2label": {
        str(i): f"LABEL_{i}" if name == "N/A" or name.endswith("-merged") else name
        for i, name in enumerate(COCO_PANOPTIC.names)
    },
}


def test_published_configs_name_their_builder_and_their_classes():
    read = read_config(PUBLISHED)
    assert (read.name, read.classes, read.notes) == ("detr.r50_panoptic", COCO_PANOPTIC, [])
    assert read_config(PUBLISHED | {"dilation": True}).name == "detr.r50_dc5_panoptic"
    few = {"id2label": {"0": "a", "1": "b"}, "dilation": True}
    name, kwargs, *_ = read_config(PUBLISHED | few)
    assert (name, kwargs["dilation"]) == (INSTANCE, True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation_function": "gelu"}, "activation_function must be 'relu'; got 'gelu'"),
        ({"backbone_kwargs": {"out_indices": [4]}}, "backbone_config.out_indices must be"),
        (
            {"use_timm_backbone": False, "backbone_config": {"out_features": ["stage4"]}},
            "backbone_config.out_features must be .'stage1', 'stage2', 'stage3', 'stage4'.",
        ),
        ({"category_ids": [None] * 250, "stuff": [250]}, "stuff must list labels from 0 to 249"),
        ({"architectures": ["DetrModel"]}, "'DetrForSegmentation'.; got .'DetrModel'."),
    ],
)
def test_what_does_not_fit_a_mask_head_is_named(changes, message):
    with pytest.raises(UserError, match=message):
        read_config(json.loads(json.dumps(PUBLISHED | changes)))


def test_another_activation_than_relu_is_not_written_for_transformers(tmp_path):
    with pytest.raises(UserError, match="transformers' mask head has the transformer's activation"):
        write_huggingface(ours(activation="gelu"), tmp_path / "out")

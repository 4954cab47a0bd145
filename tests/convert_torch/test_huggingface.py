"""Hugging Face folders: the same outputs as transformers, both ways, and strict configs."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

from jaxseg.checkpoints import ImageConfig, Pretrained, from_pretrained, open_source
from jaxseg.data.classes import Classes
from jaxseg.errors import UserError
from jaxseg.structures import Images
from jaxseg_convert_torch import TABLES, read_state_dict, revert
from jaxseg_convert_torch.huggingface import read_config
from jaxseg_convert_torch.sources import write_huggingface
from tests.small_detr import FIELDS, assert_same, drawn, small

NAMES = {0: "N/A", 1: "cell", 2: "platelet"}


def torch_detr(seed=0, **fields):
    """A small transformers DETR whose statistics and weights are all random."""
    torch.manual_seed(seed)
    backbone = ResNetConfig(
        embedding_size=64,
        hidden_sizes=[64, 128, 256, 512],
        depths=[2, 2, 2, 2],
        layer_type="basic",
        out_features=["stage4"],
    )
    sizes = {
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
        "num_queries": 7,
        "id2label": NAMES,
    }
    model = DetrForObjectDetection(
        DetrConfig(use_timm_backbone=False, backbone_config=backbone, **sizes | fields)
    )
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.2, 2.0)
            elif name.endswith(("running_mean", "bias")):
                tensor.normal_(0, 0.1)
            elif tensor.ndim > 1:  # transformers' own start is so small that inputs hardly matter
                tensor.normal_(0, 1 if "embeddings" in name else (2 / tensor[0].numel()) ** 0.5)
    return model.eval()


def padded_batch():
    """Two images on one canvas, the second one padded."""
    generator = np.random.default_rng(0)
    pixels = generator.standard_normal((2, 96, 128, 3)).astype(np.float32)
    mask = np.zeros((2, 96, 128), bool)
    mask[0], mask[1, :70, :101] = True, True
    return pixels * mask[..., None], mask


def run_both(model, pretrained):
    pixels, mask = padded_batch()
    with torch.no_grad():
        theirs = model(
            pixel_values=torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()),
            pixel_mask=torch.from_numpy(mask.astype(np.int64)),  # 1 on real pixels here too
        )
    with jax.default_matmul_precision("highest"):
        ours = pretrained.model.apply(
            {"params": pretrained.params}, Images(jnp.asarray(pixels), jnp.asarray(mask))
        )
    return theirs, ours


def assert_parity(model, pretrained):
    theirs, ours = run_both(model, pretrained)
    np.testing.assert_allclose(ours.logits[-1], theirs.logits, atol=2e-5)
    np.testing.assert_allclose(ours.boxes[-1], theirs.pred_boxes, atol=1e-5)
    # Queries and images differ, so this compares no constants.
    assert theirs.logits.std(dim=1).mean() > 0.05
    assert theirs.pred_boxes.std(dim=0).mean() > 0.01


@pytest.fixture(scope="module", params=["sine", "learned"])
def saved(request, tmp_path_factory):
    model = torch_detr(position_embedding_type=request.param)
    folder = tmp_path_factory.mktemp("saved")
    model.save_pretrained(folder)
    return model, folder


def test_a_folder_of_transformers_gives_the_same_outputs(saved):
    model, folder = saved
    pretrained = from_pretrained(folder)
    assert_parity(model, pretrained)
    assert pretrained.name == "detr.r50"
    assert pretrained.kwargs["num_classes"] == 3
    assert pretrained.classes == Classes(tuple(NAMES.values()), (None, 1, 2))


def test_the_way_back_gives_the_file_bit_for_bit(saved):
    _, folder = saved
    source = open_source(folder)
    pretrained = from_pretrained(folder)
    state = revert(TABLES[source.origin["table"]], pretrained.params, source.origin)
    assert_same(state, read_state_dict(folder / "model.safetensors"))


def test_the_newer_names_of_transformers_5_load_too(saved, tmp_path):
    model, _ = saved
    if "save_original_format" not in model.save_pretrained.__code__.co_varnames:
        pytest.skip("this transformers writes the older names only")
    model.save_pretrained(tmp_path, save_original_format=False)
    assert any(".o_proj." in key for key in read_state_dict(tmp_path / "model.safetensors"))
    assert_parity(model, from_pretrained(tmp_path))


def test_half_precision_shards_load(saved, tmp_path):
    model, _ = saved
    half = torch_detr(position_embedding_type=model.config.position_embedding_type).half()
    half.save_pretrained(tmp_path, max_shard_size="5MB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    assert_parity(half.float(), from_pretrained(tmp_path))


def test_transformers_loads_what_is_written_back(saved, tmp_path):
    model, folder = saved
    pretrained = from_pretrained(folder)._replace(origin=None, image=ImageConfig(short_side=480))
    write_huggingface(pretrained, tmp_path / "out")
    again = DetrForObjectDetection.from_pretrained(tmp_path / "out").eval()
    assert again.config.id2label == NAMES
    assert_same(
        {k: v.numpy() for k, v in again.state_dict().items()},
        {k: v.numpy() for k, v in model.state_dict().items()},
    )
    assert from_pretrained(tmp_path / "out").image.short_side == 480


def test_a_pickled_folder_loads(saved, tmp_path):
    model, folder = saved
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    assert_parity(model, from_pretrained(tmp_path))


def ours(fields, classes):
    model = small(**fields)
    image, kwargs = ImageConfig(), FIELDS | fields
    return Pretrained(model, drawn(model), classes, image, "detr.r50", kwargs)


def test_category_ids_come_back(tmp_path):
    classes = Classes(("red", "white", "N/A"), (1, 5, 2))
    write_huggingface(ours({}, classes), tmp_path / "out")
    source = open_source(tmp_path / "out")
    assert source.classes == classes
    assert source.notes == []
    again = DetrForObjectDetection.from_pretrained(tmp_path / "out")
    again.save_pretrained(tmp_path / "again")  # transformers keeps the field
    assert open_source(tmp_path / "again").classes == classes


@pytest.mark.parametrize("fields", [{}, {"depth": 50}], ids=["basic", "bottleneck"])
def test_a_narrow_resnet_goes_to_transformers_and_back(tmp_path, fields):
    pretrained = ours({"stem": 16, **fields}, Classes.from_names("abc"))
    write_huggingface(pretrained, tmp_path / "out")
    model = DetrForObjectDetection.from_pretrained(tmp_path / "out").eval()
    theirs, found = run_both(model, pretrained)
    np.testing.assert_allclose(found.logits[-1], theirs.logits, atol=5e-5)
    assert from_pretrained(tmp_path / "out").model == pretrained.model
    dilated = ours({"stem": 16, "dilation": True}, Classes.from_names("abc"))
    with pytest.raises(UserError, match="none with a stem of 16 channels"):
        write_huggingface(dilated, tmp_path / "dilated")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"norm": "group_norm"}, "group normalisation in its ResNet, nor has the official"),
        ({"pre_norm": True}, "pre-norm layers; write the official form instead"),
    ],
)
def test_what_transformers_lacks_is_refused_with_what_to_do(tmp_path, fields, message):
    with pytest.raises(UserError, match=message):
        write_huggingface(ours(fields, Classes.from_names("abc")), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_anything_is_not_overwritten(tmp_path):
    pretrained = ours({}, Classes.from_names("abc"))
    write_huggingface(pretrained, tmp_path / "out")
    with pytest.raises(UserError, match=r"only an empty folder is replaced\); choose another"):
        write_huggingface(pretrained, tmp_path / "out")


def test_a_model_that_the_folder_contradicts_is_an_error(saved):
    _, folder = saved
    with pytest.raises(UserError, match=r"its model is detr\.r50; detr\.r101 was asked for"):
        from_pretrained(folder, model="detr.r101")
    with pytest.raises(UserError, match="num_heads=2 is for an official file"):
        open_source(folder, num_heads=2)


def test_notes_of_the_preprocessor_are_the_sources(tmp_path):
    write_huggingface(ours({}, Classes.from_names("abc")), tmp_path / "out")
    path = tmp_path / "out" / "preprocessor_config.json"
    path.write_text(json.dumps({"size": {"max_height": 480, "max_width": 480}, "resample": 3}))
    source = open_source(tmp_path / "out")
    assert source.image == ImageConfig(short_side=480, long_side=480)
    assert "resample=3" in source.notes[0]


# What transformers 4.46 writes for facebook/detr-resnet-50-dc5: it leaves out its own defaults.
TIMM = {
    "architectures": ["DetrForObjectDetection"],
    "backbone": "resnet50",
    "backbone_config": None,
    "backbone_kwargs": {"in_chans": 3, "out_indices": [1, 2, 3, 4], "output_stride": 16},
    "classifier_dropout": 0.0,
    "dilation": True,
    "max_position_embeddings": 1024,
    "model_type": "detr",
    "num_hidden_layers": 6,
    "scale_embedding": False,
    "torch_dtype": "float32",
    "transformers_version": "4.46.0",
    "use_pretrained_backbone": True,
    "use_timm_backbone": True,
    "id2label": {str(i): f"c{i}" for i in range(91)},
}


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "detr.r50_dc5"),
        ({"dilation": False, "backbone_kwargs": {}}, "detr.r50"),
        ({"backbone": "resnet101"}, "detr.r101_dc5"),
        (
            {
                "backbone": None,
                "backbone_kwargs": None,
                "dilation": False,
                "backbone_config": {"model_type": "timm_backbone", "backbone": "resnet101.a1"},
            },
            "detr.r101",
        ),
    ],
)
def test_configs_name_their_builder(changes, name):
    config = dict(TIMM | changes)
    read, kwargs, classes, notes = read_config(config)
    assert read == name
    assert kwargs["num_classes"] == len(classes) == 91
    assert kwargs["num_queries"] == 100
    assert notes == ["that labels are category ids (config.json does not tell)"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "conditional_detr"}, "conditional_detr"),
        ({"architectures": ["DetrModel"]}, "architectures"),
        ({"decoder_layerdrop": 0.1}, "decoder_layerdrop must be 0; got 0.1"),
        ({"decoder_attention_heads": 4}, "decoder_attention_heads"),
        ({"activation_function": "swish"}, "activation_function must be 'relu' or 'gelu'"),
        ({"backbone": "resnet50d"}, "backbone must be"),
        ({"num_channels": 4}, "num_channels"),
        ({"normalize_before": True}, "normalize_before must be False"),
        ({"num_feature_levels": 4}, "num_feature_levels must be 1"),
        ({"encoder_attention_heads": 0}, "encoder_attention_heads must be a whole number above 0"),
        ({"id2label": {"1": "a", "2": "b"}}, "id2label"),
        ({"id2label": {"x": "a"}}, "id2label must number its labels"),
        ({"id2label": ["a", "b"]}, "id2label must number its labels"),
        ({"category_ids": [1]}, "category_ids must give a whole number or null to each of 91"),
        ({"backbone_config": [1]}, "backbone_config must be an object"),
        (
            {"use_timm_backbone": False, "backbone_config": {"out_features": ["stage3"]}},
            "the last of backbone_config.out_features must be 'stage4'",
        ),
        ({"use_timm_backbone": False, "backbone_config": {"hidden_act": "gelu"}}, "hidden_act"),
        ({"use_timm_backbone": False, "backbone": None}, "dilation with its own ResNet"),
    ],
)
def test_an_unsupported_field_is_named(changes, message):
    config = TIMM | changes
    if "dilation" not in message and "backbone_config" in changes:
        config["dilation"] = False
    with pytest.raises(UserError, match=message):
        read_config(config)


def test_fields_that_change_nothing_pass_and_unknown_ones_are_noted():
    inert = {"use_cache": True, "gradient_checkpointing": False, "auto_map": {"AutoModel": "a.B"}}
    inert |= {"output_scores": False, "pruned_heads": {}}
    assert read_config(TIMM | inert) == read_config(TIMM)
    notes = read_config(TIMM | {"lab_note": "x", "mystery_gate": True}).notes
    assert "do not change the model: lab_note, mystery_gate" in notes[-1]


def test_of_several_features_the_last_counts():
    backbone = {"model_type": "resnet", "out_features": ["stage2", "stage3", "stage4"]}
    own = {"use_timm_backbone": False, "dilation": False, "backbone_kwargs": None}
    assert read_config(TIMM | own | {"backbone_config": backbone}).name == "detr.r50"


def test_a_config_that_is_no_object_is_named(tmp_path):
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(UserError, match=r"config\.json must hold a JSON object; got \[1\]"):
        from_pretrained(tmp_path)


def test_nulls_stand_for_what_transformers_assumes():
    nulls = {"dilation": None, "backbone": None, "use_pretrained_backbone": None, "d_model": None}
    own = {"use_timm_backbone": False, "backbone_config": {"model_type": "resnet"}}
    name, kwargs, *_ = read_config(TIMM | nulls | own | {"backbone_kwargs": None})
    assert (name, kwargs["width"]) == ("detr.r50", 256)


def test_a_conditional_detr_folder_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "conditional_detr"}))
    with pytest.raises(UserError, match="'conditional_detr', which is another model"):
        from_pretrained(tmp_path)

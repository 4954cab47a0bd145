"""Hugging Face's DAB-DETR: the same outputs as transformers, both ways, strict configs."""

import math

import numpy as np
import pytest
from transformers import DabDetrConfig, DabDetrForObjectDetection

from jaxseg.checkpoints import ImageConfig, Pretrained, from_pretrained
from jaxseg.cli import main
from jaxseg.data.classes import Classes
from jaxseg.errors import UserError
from jaxseg.models import build
from jaxseg.native import read_json
from jaxseg.params import flatten
from jaxseg_convert_torch import read_state_dict, write_state_dict
from jaxseg_convert_torch.huggingface import read_config
from jaxseg_convert_torch.sources import write_huggingface, write_official
from tests.small_detr import assert_same, drawn
from tests.small_huggingface import (
    NAMES,
    SIZES,
    differences,
    padded_batch,
    randomise,
    resnet18,
    single_image,
)

FORMS = {
    "r50": {},
    "r50_3patterns": {
        "num_patterns": 3,
        "temperature_height": 10,
        "temperature_width": 10,
        "random_refpoints_xy": True,
    },
}
SMALL = {
    "depth": 18, "stem": 8, "width": 64, "num_heads": 4, "feedforward": 48, "encoder_layers": 1,
    "decoder_layers": 2, "num_queries": 7, "num_classes": 3, "epsilon": 1e-5,
}  # fmt: skip


def torch_model(**fields):
    config = DabDetrConfig(
        use_timm_backbone=False,
        backbone_config=resnet18(["stage4"]),
        hidden_size=64,
        **SIZES | fields,
    )
    return randomise(DabDetrForObjectDetection(config))


@pytest.fixture(
    scope="module", params=["r50", pytest.param("r50_3patterns", marks=pytest.mark.slow)]
)
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
    assert pretrained.name == f"dab_detr.{name}"
    assert pretrained.classes == Classes(tuple(NAMES.values()), (None, 1, 2))
    assert pretrained.model.anchors == ("normal" if name == "r50" else "uniform")
    assert_close(model, pretrained, padded_batch())
    exact = from_pretrained(folder, canvas="exact")
    assert_close(model, exact, single_image())


def test_anchors_beyond_the_originals_epsilon_are_transformers_own(tmp_path):
    model = torch_model()
    anchors = model.model.query_refpoint_embeddings.weight.data
    anchors[0], anchors[1, 2:] = 8.0, -8.0  # within 4e-4 of the border
    model.save_pretrained(tmp_path)
    assert_close(model, from_pretrained(tmp_path), single_image())
    original = from_pretrained(tmp_path, epsilon=1e-3)
    found = differences(model, original.model, original.params, single_image())
    assert found["boxes"] > 1e-4


def test_the_command_converts_there_and_back_bit_for_bit(saved, tmp_path):
    _, model, folder = saved
    native, back = str(tmp_path / "native"), tmp_path / "back"
    assert main(["convert", str(folder), native, "--no-probe"]) == 0
    assert main(["convert", native, str(back), "--to", "huggingface"]) == 0
    weights = "model.safetensors"
    assert_same(read_state_dict(back / weights), read_state_dict(folder / weights))
    again, info = DabDetrForObjectDetection.from_pretrained(back, output_loading_info=True)
    assert not any(info.values())
    for field in (*FORMS["r50_3patterns"], "id2label", "activation_function", "dropout"):
        assert getattr(again.config, field) == getattr(model.config, field), field


def ours(**fields):
    kwargs = SMALL | fields
    model = build("dab_detr.r50", **kwargs)
    classes, image = Classes.from_names("abc"), ImageConfig()
    return Pretrained(model, drawn(model), classes, image, "dab_detr.r50", kwargs)


def test_transformers_loads_what_is_written(saved, tmp_path):
    pretrained = from_pretrained(saved[2])._replace(origin=None)
    write_huggingface(pretrained, tmp_path / "out")
    model, info = DabDetrForObjectDetection.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(info.values())
    assert_close(model.eval(), pretrained, single_image())
    again = from_pretrained(tmp_path / "out")
    assert again.model == pretrained.model
    assert_same(flatten(again.params), flatten(pretrained.params))
    processor = read_json(tmp_path / "out" / "preprocessor_config.json")
    assert processor["image_processor_type"] == "ConditionalDetrImageProcessor"


@pytest.mark.parametrize("lost", ["bbox_predictor.", "model.decoder.bbox_embed."])
def test_the_box_head_may_have_either_name(tmp_path, lost):
    pretrained = ours()
    write_huggingface(pretrained, tmp_path / "out")
    path = tmp_path / "out" / "model.safetensors"
    state = {k: v for k, v in read_state_dict(path).items() if not k.startswith(lost)}
    write_state_dict(state, path)
    again = from_pretrained(tmp_path / "out")
    assert_same(flatten(again.params), flatten(pretrained.params))
    write_huggingface(again, tmp_path / "back")
    assert_same(read_state_dict(tmp_path / "back" / "model.safetensors"), state)


def test_a_dilated_model_has_timms_names_and_comes_back(tmp_path):
    pretrained = ours(depth=50, stem=64, dilation=True, temperature=10.0)
    write_huggingface(pretrained, tmp_path / "out")
    keys = read_state_dict(tmp_path / "out" / "model.safetensors")
    assert "model.backbone.conv_encoder.model._backbone.layer4.2.conv3.weight" in keys
    again = from_pretrained(tmp_path / "out")
    assert again.name == "dab_detr.r50_dc5"
    assert again.model == pretrained.model
    assert_same(flatten(again.params), flatten(pretrained.params))


def test_another_epsilon_than_the_models_is_said(tmp_path):
    said = []
    for epsilon in (1e-5, 1e-3):
        write_huggingface(ours(epsilon=epsilon), tmp_path / f"{epsilon}", said.append)
        write_official(ours(epsilon=epsilon), tmp_path / f"{epsilon}.safetensors", said.append)
    original, theirs = said
    assert (
        "the original DAB-DETR cuts logits of boxes off at 0.001, this model at 1e-05" in original
    )
    assert "transformers' DAB-DETR cuts logits of boxes off at 1e-05, this model at 0.001" in theirs


# What transformers writes for IDEA-Research/dab-detr-resnet-50-dc5-fixxy, without what all have.
PUBLISHED = {
    "architectures": ["DabDetrForObjectDetection"],
    "model_type": "dab-detr",
    "backbone": "resnet50",
    "backbone_kwargs": {"in_chans": 3, "out_indices": [1, 2, 3, 4], "output_stride": 16},
    "cls_loss_coefficient": 2,
    "dilation": True,
    "focal_alpha": 0.25,
    "id2label": {str(i): f"c{i}" for i in range(91)},
    "initializer_bias_prior_prob": None,
    "random_refpoints_xy": True,
    "sine_position_embedding_scale": None,
    "temperature_height": 20,
    "temperature_width": 20,
    "use_timm_backbone": True,
}


def test_published_configs_name_their_builder():
    always = {"dropout": 0.1, "epsilon": 1e-5}
    read = read_config(PUBLISHED)
    assert read.name == "dab_detr.r50"
    assert read.kwargs == always | {"dilation": True, "anchors": "uniform"}
    assert read.notes == ["that labels are category ids (config.json does not tell)"]
    three = PUBLISHED | {"num_patterns": 3, "random_refpoints_xy": False}
    assert read_config(three).name == "dab_detr.r50_dc5_3patterns"
    plain = {"temperature_height": 10, "temperature_width": 10, "random_refpoints_xy": False}
    assert read_config(PUBLISHED | plain)[:2] == ("dab_detr.r50_dc5", always)
    full_turn = {"sine_position_embedding_scale": 2 * math.pi}
    assert read_config(PUBLISHED | full_turn) == read


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["DabDetrModel"]}, "architectures must be"),
        ({"activation_function": "relu"}, "activation_function must be 'prelu'; got 'relu'"),
        ({"query_dim": 2}, "query_dim must be 4; got 2"),
        ({"keep_query_pos": True}, "keep_query_pos must be False; got True"),
        ({"normalize_before": True}, "normalize_before must be False; got True"),
        ({"temperature_width": 10}, "temperature_width must be 20; got 10"),
        ({"temperature_height": 0}, "temperature_height must be a whole number above 0"),
        ({"sine_position_embedding_scale": 1.0}, r"scale must be 6\.28.*; got 1\.0"),
        ({"num_patterns": -1}, "num_patterns must be a whole number, 0 or more; got -1"),
        ({"decoder_ffn_dim": 8}, "decoder_ffn_dim must be 2048; got 8"),
        ({"hidden_size": 0}, "hidden_size must be a whole number above 0; got 0"),
        ({"backbone": "resnet50d"}, "backbone must be"),
    ],
)
def test_an_unsupported_field_is_named(changes, message):
    with pytest.raises(UserError, match=message):
        read_config(PUBLISHED | changes)


def test_a_temperature_that_transformers_lacks_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"whole numbers for temperatures; got 12\.5: write the"):
        write_huggingface(ours(temperature=12.5), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_box_heads_that_differ_are_reported(tmp_path):
    write_huggingface(ours(), tmp_path / "out")
    path, key = tmp_path / "out" / "model.safetensors", "model.decoder.bbox_embed.layers.2.bias"
    state = read_state_dict(path)
    write_state_dict(state | {key: state[key] + np.float32(1)}, path)
    with pytest.raises(UserError, match=r"it should repeat bbox_predictor\.layers\.2\.bias"):
        from_pretrained(tmp_path / "out")

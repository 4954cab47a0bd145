"""What the configs of Hugging Face's Deformable DETR say, and what is refused in them."""

import pytest

from jaxseg.errors import UserError
from jaxseg_convert_torch.huggingface import read_config

# What transformers 4.46 writes for SenseTime/deformable-detr, without what all models have.
PUBLISHED = {
    "architectures": ["DeformableDetrForObjectDetection"],
    "model_type": "deformable_detr",
    "backbone": "resnet50",
    "backbone_config": None,
    "backbone_kwargs": {"in_chans": 3, "out_indices": [2, 3, 4]},
    "use_timm_backbone": True,
    "dilation": False,
    "disable_custom_kernels": False,
    "focal_alpha": 0.25,
    "id2label": {str(i): f"c{i}" for i in range(91)},
}
SINGLE = {
    "num_feature_levels": 1,
    "backbone_kwargs": {"out_indices": [4], "output_stride": 16},
    "dilation": True,
}


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "r50"),
        ({"backbone_kwargs": None}, "r50"),
        ({"with_box_refine": True}, "r50_refine"),
        ({"with_box_refine": True, "two_stage": True}, "r50_refine_two_stage"),
        (SINGLE, "r50_dc5_single_scale"),
        (SINGLE | {"backbone_kwargs": None}, "r50_dc5_single_scale"),
        (SINGLE | {"backbone_kwargs": None, "dilation": None}, "r50_single_scale"),
        (
            SINGLE
            | {
                "backbone_kwargs": None,
                "backbone_config": {"model_type": "timm_backbone", "output_stride": 16},
            },
            "r50_dc5_single_scale",
        ),
    ],
)
def test_configs_name_their_builder(changes, name):
    read = read_config(PUBLISHED | changes)
    assert read.name == f"deformable_detr.{name}"
    assert read.kwargs == {}
    assert read.notes == ["that labels are category ids (config.json does not tell)"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["DeformableDetrModel"]}, "architectures must be"),
        ({"position_embedding_type": "learned"}, "position_embedding_type must be 'sine'"),
        ({"activation_function": "gelu"}, "activation_function must be 'relu'; got 'gelu'"),
        ({"decoder_n_points": 8}, "decoder_n_points must be 4; got 8"),
        ({"decoder_attention_heads": 4}, "decoder_attention_heads must be 8; got 4"),
        ({"decoder_ffn_dim": 8}, "decoder_ffn_dim must be 1024; got 8"),
        ({"decoder_layers": 0}, "decoder_layers must be a whole number above 0; got 0"),
        ({"num_feature_levels": 2}, "num_feature_levels must be 1, or 3 or more; got 2"),
        ({"num_feature_levels": 1}, "out_indices must be .4.; got .2, 3, 4."),
        ({"two_stage": True}, "with_box_refine beside two_stage must be True; got False"),
        (
            {"two_stage": True, "with_box_refine": True, "two_stage_num_proposals": 0},
            "two_stage_num_proposals must be a whole number above 0",
        ),
        ({"d_model": 48}, "d_model must be a multiple of 32 .*; got 48"),
        (
            {"use_timm_backbone": False, "backbone_config": {"model_type": "resnet"}},
            r"out_features must be \['stage2', 'stage3', 'stage4'\]; got \['stage4'\]",
        ),
        (
            {"backbone_kwargs": None, "backbone_config": {"model_type": "timm_backbone"}},
            r"out_indices must be \[2, 3, 4\]; got \[-1\]",
        ),
        (SINGLE | {"backbone": "resnet18"}, "a dilated backbone must be .*; got resnet18"),
        ({"model_type": "conditional_detr"}, "one of detr, .*, sam, clip; got 'conditional"),
    ],
)
def test_an_unsupported_field_is_named(changes, message):
    with pytest.raises(UserError, match=message):
        read_config(PUBLISHED | changes)

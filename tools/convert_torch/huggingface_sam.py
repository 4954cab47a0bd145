"""Hugging Face's config.json of Segment Anything, read and written."""

from collections.abc import Mapping
from typing import Any

from jaxseg.errors import UserError
from jaxseg.models.sam import Sam
from jaxseg.native import build_model
from jaxseg.train.describe import describe
from jaxseg_convert_torch.huggingface_fields import BOOKKEEPING, Described, require, require_count

# Of transformers' two-way layers, where a config is silent; the official code has 1e-5.
EPSILON = 1e-6
# Parts of a config: field → builder argument, and what transformers assumes.
VISION = {
    "hidden_size": ("encoder_width", 768),
    "num_hidden_layers": ("encoder_depth", 12),
    "num_attention_heads": ("encoder_heads", 12),
    "output_channels": ("width", 256),
    "image_size": ("image_size", 1024),
    "patch_size": ("patch", 16),
    "window_size": ("window", 14),
    "use_rel_pos": ("relative", True),
}
DECODER = {
    "num_hidden_layers": ("decoder_layers", 2),
    "num_attention_heads": ("num_heads", 8),
    "mlp_dim": ("feedforward", 2048),
    "attention_downsample_rate": ("downsample", 2),
    "num_multimask_outputs": ("multimask_outputs", 3),
    "iou_head_hidden_dim": ("iou_width", 256),
}
# The only values that the builders reproduce, the first one assumed.
FIXED = {
    "vision_config": {
        "num_channels": (3,),
        "hidden_act": ("gelu",),
        "layer_norm_eps": (1e-6,),
        "qkv_bias": (True,),
        "use_abs_pos": (True,),
        "attention_dropout": (0.0,),
    },
    "prompt_encoder_config": {
        "num_point_embeddings": (4,),
        "hidden_act": ("gelu",),
        "layer_norm_eps": (1e-6,),
    },
    "mask_decoder_config": {"hidden_act": ("relu",), "iou_head_depth": (3,)},
}
# Read apart, or changing nothing.
OTHERS = {
    *("vision_config", "prompt_encoder_config", "mask_decoder_config", "initializer_range"),
    *("tie_word_embeddings", "global_attn_indexes", "mlp_dim", "mlp_ratio", "num_pos_feats"),
    *("scale", "hidden_size", "image_size", "patch_size", "mask_input_channels"),
    *("image_embedding_size", "layer_norm_eps"),
}


def read_sam(config: Mapping[str, Any]) -> Described:
    """A config without nulls; see `huggingface.read_config`."""
    require("architectures", config.get("architectures", ["SamModel"]), [["SamModel"]])
    parts = {name: _part(config, name) for name in FIXED}
    vision, prompts, decoder = parts.values()
    kwargs = _read(vision, VISION) | _read(decoder, DECODER)
    width, patch = kwargs["width"], kwargs["patch"]
    hidden = vision.get("mlp_dim", int(kwargs["encoder_width"] * vision.get("mlp_ratio", 4.0)))
    require_count("vision_config.mlp_dim", hidden)
    kwargs["mlp_ratio"] = hidden / kwargs["encoder_width"]
    kwargs["global_blocks"] = tuple(vision.get("global_attn_indexes", (2, 5, 8, 11)))
    kwargs["mask_channels"] = prompts.get("mask_input_channels", 16)
    kwargs["decoder_epsilon"] = decoder.get("layer_norm_eps", EPSILON)
    for name, part in (("prompt_encoder_config", prompts), ("mask_decoder_config", decoder)):
        require(f"{name}.hidden_size", part.get("hidden_size", 256), [width])
    for name, value in (("image_size", kwargs["image_size"]), ("patch_size", patch)):
        assumed = VISION[name][1]
        require(f"prompt_encoder_config.{name}", prompts.get(name, assumed), [value])
    features = vision.get("num_pos_feats", 128)
    require("vision_config.num_pos_feats", features, [width // 2])
    name, kwargs = describe(build_model("sam.vit_h", kwargs, "config.json"))
    return Described(name, kwargs, None, _unknown(config, parts))


def _part(config, name: str) -> Mapping[str, Any]:
    """A part of a config without nulls.

    Raises:
      UserError: a value that cannot be reproduced, by its field.
    """
    part = config.get(name, {})
    if not isinstance(part, Mapping):
        raise UserError(f"config.json: {name} must be an object; got {part!r}")
    part = {field: value for field, value in part.items() if value is not None}
    for field, allowed in FIXED[name].items():
        require(f"{name}.{field}", part.get(field, allowed[0]), allowed)
    return part


def _read(part, fields) -> dict[str, Any]:
    for field, (_, assumed) in fields.items():
        if not isinstance(assumed, bool):
            require_count(field, part.get(field, assumed), field != "window_size")
    return {ours: part.get(field, assumed) for field, (ours, assumed) in fields.items()}


def _unknown(config, parts) -> list[str]:
    known = {*OTHERS, *BOOKKEEPING, *VISION, *DECODER, *(n for f in FIXED.values() for n in f)}
    names = {*config, *(field for part in parts.values() for field in part)} - known
    what = "that these fields of config.json do not change the model"
    return [f"{what}: {', '.join(sorted(names))}"] if names else []


def write_sam_config(model: Sam) -> dict[str, Any]:
    """The `config.json` with which transformers builds a model of ours.

    Raises:
      UserError: transformers' model has no such part.
    """
    vit, prompts, decoder = model.image_encoder.vit, model.prompt_encoder, model.mask_decoder
    if decoder.iou_layers != 3:
        raise UserError(
            f"transformers' form is written of heads with 3 layers; got iou_layers="
            f"{decoder.iou_layers}: write the official form instead"
        )
    transformer, width = decoder.transformer, prompts.width
    values = {
        "encoder_width": vit.width,
        "encoder_depth": vit.depth,
        "encoder_heads": vit.num_heads,
        "width": width,
        "image_size": vit.image_size,
        "patch": vit.patch,
        "window": vit.window,
        "relative": vit.relative,
        "decoder_layers": transformer.num_layers,
        "num_heads": transformer.num_heads,
        "feedforward": transformer.feedforward,
        "downsample": transformer.downsample,
        "multimask_outputs": decoder.multimask_outputs,
        "iou_width": decoder.iou_width,
    }

    def part(name: str, fields, **more: Any) -> dict[str, Any]:
        fixed = {field: allowed[0] for field, allowed in FIXED[name].items()}
        return fixed | {field: values[ours] for field, (ours, _) in fields.items()} | more

    return {
        "architectures": ["SamModel"],
        "model_type": "sam",
        "vision_config": part(
            "vision_config",
            VISION,
            model_type="sam_vision_model",
            mlp_dim=int(vit.width * vit.mlp_ratio),
            mlp_ratio=vit.mlp_ratio,
            global_attn_indexes=list(vit.global_blocks),
            num_pos_feats=width // 2,
        ),
        "prompt_encoder_config": part(
            "prompt_encoder_config",
            {},
            model_type="sam_prompt_encoder",
            hidden_size=width,
            image_size=vit.image_size,
            patch_size=vit.patch,
            image_embedding_size=prompts.grid,
            mask_input_channels=prompts.mask_channels,
        ),
        "mask_decoder_config": part(
            "mask_decoder_config",
            DECODER,
            model_type="sam_mask_decoder",
            hidden_size=width,
            layer_norm_eps=transformer.epsilon,
        ),
    }


def write_sam_preprocessor(image, side: int, low: int) -> dict[str, Any]:
    """The `preprocessor_config.json` of a model whose canvas and masks have these sides."""
    return {
        "image_processor_type": "SamImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "do_pad": True,
        "rescale_factor": 1 / 255,
        "resample": 2,
        "image_mean": list(image.mean),
        "image_std": list(image.std),
        "size": {"longest_edge": side},
        "pad_size": {"height": side, "width": side},
        "mask_size": {"longest_edge": low},
        "mask_pad_size": {"height": low, "width": low},
    }

"""Hugging Face's config.json and preprocessor of CLIP, read and written."""

from collections.abc import Mapping
from typing import Any

from jaxseg.errors import UserError
from jaxseg.models.clip import Clip
from jaxseg.models.clip.builders import ACTIVATIONS
from jaxseg.native import build_model
from jaxseg.predict.clip_image import MEAN, STD
from jaxseg.pretrained import ImageConfig
from jaxseg.train.describe import describe
from jaxseg_convert_torch.huggingface_fields import (
    BOOKKEEPING,
    TRAINING,
    Described,
    require,
    require_count,
)
from jaxseg_convert_torch.preprocessor import BILINEAR, read_preprocessor

BICUBIC = 3  # PIL's number
LEGACY_END = 2  # of configs whose model pools at the largest id, as all do that say another
# Parts of a config: field → builder argument, and what transformers assumes.
TEXT = {
    "hidden_size": ("text_width", 512),
    "num_hidden_layers": ("text_depth", 12),
    "num_attention_heads": ("text_heads", 8),
    "max_position_embeddings": ("context", 77),
    "vocab_size": ("vocabulary", 49408),
}
VISION = {
    "hidden_size": ("image_width", 768),
    "num_hidden_layers": ("image_depth", 12),
    "num_attention_heads": ("image_heads", 12),
    "image_size": ("image_size", 224),
    "patch_size": ("patch", 32),
}
PARTS = {"text_config": (TEXT, 2048), "vision_config": (VISION, 3072)}
# What old configs of any model say in each part, and what is read apart or changes nothing.
OTHERS = {
    *("text_config", "vision_config", "text_config_dict", "vision_config_dict", "projection_dim"),
    *("logit_scale_init_value", "initializer_factor", "initializer_range", "intermediate_size"),
    *("hidden_act", "layer_norm_eps", "num_channels", "eos_token_id", "bos_token_id"),
    *("pad_token_id", "dropout", "tie_word_embeddings", "pruned_heads", "is_decoder"),
    *("add_cross_attention", "cross_attention_hidden_size", "tie_encoder_decoder", "prefix"),
    *("decoder_start_token_id", "sep_token_id", "task_specific_params", "tf_legacy_loss"),
    *("max_length", "min_length", "do_sample", "early_stopping", "num_beams", "temperature"),
    *("num_beam_groups", "diversity_penalty", "top_k", "top_p", "typical_p", "length_penalty"),
    *("repetition_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size"),
    *("bad_words_ids", "num_return_sequences", "return_dict_in_generate", "forced_bos_token_id"),
    *("forced_eos_token_id", "remove_invalid_values", "exponential_decay_length_penalty"),
    *("suppress_tokens", "begin_suppress_tokens"),
}


def read_clip(config: Mapping[str, Any]) -> Described:
    """A config without nulls; see `huggingface.read_config`."""
    require("architectures", config.get("architectures", ["CLIPModel"]), [["CLIPModel"]])
    parts = {name: _part(config, name) for name in PARTS}
    text, vision = parts.values()
    kwargs = _read("text_config", text) | _read("vision_config", vision)
    kwargs["width"] = config.get("projection_dim", 512)
    require_count("projection_dim", kwargs["width"])
    require("vision_config.num_channels", vision.get("num_channels", 3), [3])
    end = text.get("eos_token_id", 49407)
    require("text_config.eos_token_id", end, [LEGACY_END, kwargs["vocabulary"] - 1])
    built = build_model("clip.vit_b32", kwargs | _shared(text, vision, kwargs), "config.json")
    name, kwargs = describe(built)
    return Described(name, kwargs, None, _unknown(config, parts))


def _part(config, name: str) -> dict[str, Any]:
    """A part of a config without nulls; old files say some of it twice.

    Raises:
      UserError: it is no object, or says two different things.
    """
    part: dict[str, Any] = {}
    for written in (name, f"{name}_dict"):
        values = config.get(written, {})
        if not isinstance(values, Mapping):
            raise UserError(f"config.json: {written} must be an object; got {values!r}")
        values = {field: value for field, value in values.items() if value is not None}
        for field, value in values.items() if written != name else ():
            require(f"{written}.{field}", value, [part.get(field, value)])
        part |= values
    return part


def _read(name: str, part) -> dict[str, Any]:
    fields, _ = PARTS[name]
    for field, (_, assumed) in fields.items():
        require_count(f"{name}.{field}", part.get(field, assumed))
    return {ours: part.get(field, assumed) for field, (ours, assumed) in fields.items()}


def _shared(text, vision, kwargs) -> dict[str, Any]:
    """What both towers have alike here.

    Raises:
      UserError: they differ there.
    """
    hidden = [part.get("intermediate_size", PARTS[name][1])
              for name, part in (("text_config", text), ("vision_config", vision))]  # fmt: skip
    require_count("vision_config.intermediate_size", hidden[1])
    ratio = hidden[1] / kwargs["image_width"]
    wanted = int(ratio * kwargs["text_width"])
    require("text_config.intermediate_size", hidden[0], [wanted])
    activation = vision.get("hidden_act", "quick_gelu")
    require("vision_config.hidden_act", activation, ACTIVATIONS)
    require("text_config.hidden_act", text.get("hidden_act", "quick_gelu"), [activation])
    epsilon = vision.get("layer_norm_eps", 1e-5)
    require("text_config.layer_norm_eps", text.get("layer_norm_eps", 1e-5), [epsilon])
    return {"mlp_ratio": ratio, "activation": activation, "epsilon": epsilon}


def _unknown(config, parts) -> list[str]:
    known = {*OTHERS, *BOOKKEEPING, *TRAINING, *TEXT, *VISION}
    names = {*config, *(field for part in parts.values() for field in part)} - known
    what = "that these fields of config.json do not change the model"
    return [f"{what}: {', '.join(sorted(names))}"] if names else []


def activation_of(model: Clip) -> str:
    """The name of the activation."""
    return next(name for name, known in ACTIVATIONS.items() if known is model.image.activation)


def write_clip_config(model: Clip) -> dict[str, Any]:
    """The `config.json` with which transformers builds a model of ours."""
    towers = {"text": model.text, "image": model.image}
    values = {
        f"{prefix}_{ours}": getattr(tower, name)
        for prefix, tower in towers.items()
        for ours, name in (("width", "width"), ("depth", "depth"), ("heads", "num_heads"))
    } | {
        "context": model.text.context,
        "vocabulary": model.text.vocabulary,
        "image_size": model.image.image_size,
        "patch": model.image.patch,
    }

    def part(name: str, tower, **more: Any) -> dict[str, Any]:
        fields = {field: values[ours] for field, (ours, _) in PARTS[name][0].items()}
        return fields | {
            "hidden_act": activation_of(model),
            "intermediate_size": int(tower.mlp_ratio * tower.width),
            "layer_norm_eps": tower.epsilon,
            "projection_dim": tower.features,
            **more,
        }

    last = model.text.vocabulary - 1
    tokens = {"bos_token_id": last - 1, "eos_token_id": last, "pad_token_id": last}
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": model.text.features,
        "logit_scale_init_value": 2.6592,
        "text_config": part("text_config", model.text, model_type="clip_text_model", **tokens),
        "vision_config": part(
            "vision_config", model.image, model_type="clip_vision_model", num_channels=3
        ),
    }


def clip_image(side: int) -> ImageConfig:
    """How OpenAI prepares images for a model whose images have this side."""
    return ImageConfig(MEAN, STD, side, side)


def read_clip_preprocessor(config: Mapping[str, Any], side: int) -> tuple[ImageConfig, list[str]]:
    """As `read_preprocessor`, where silence means CLIP's bicubic resizing and statistics."""
    if not isinstance(config, Mapping):
        return read_preprocessor(config, side)
    said = {name: value for name, value in config.items() if value is not None}
    filter_ = said.pop("resample", BICUBIC)
    silent = {"image_mean": MEAN, "image_std": STD, "resample": BILINEAR}
    image, notes = read_preprocessor(silent | said, side)
    if filter_ != BICUBIC:
        notes.append(f"bicubic resizing (preprocessor_config.json says resample={filter_})")
    if not said.get("do_center_crop", True):
        notes.append("a square out of the middle (preprocessor_config.json: do_center_crop=false)")
    return image, notes


def write_clip_preprocessor(image: ImageConfig, side: int) -> dict[str, Any]:
    """The `preprocessor_config.json` of a model whose images have this side."""
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "do_center_crop": True,
        "do_rescale": True,
        "do_normalize": True,
        "rescale_factor": 1 / 255,
        "resample": BICUBIC,
        "image_mean": list(image.mean),
        "image_std": list(image.std),
        "size": {"shortest_edge": side},
        "crop_size": {"height": side, "width": side},
    }

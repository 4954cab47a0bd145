"""Fields of Hugging Face's `config.json` that all its detection transformers have.

A value that would change the model and that the builders cannot reproduce is an error that names
its field. Fields that only training or bookkeeping reads are listed below; any other is noted.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from jaxseg.data.classes import Classes
from jaxseg.errors import UserError

# Fields with the only values that the builders reproduce.
FIXED = {
    "num_channels": (3,),
    "encoder_layerdrop": (0,),
    "decoder_layerdrop": (0,),
    "tie_word_embeddings": (True, False),
    "use_pretrained_backbone": (True, False),
    # not the models' own: forks and conversion tools add them
    "normalize_before": (False,),
    "pre_norm": (False,),
    "pruned_heads": ({},),
    "quantization_config": ({},),
}
# The dropouts inside attention and feed-forward act in training only, where the originals' own
# recipes use one rate for all; the costs and coefficients are the criterion's.
TRAINING = {
    *("attention_dropout", "activation_dropout", "classifier_dropout", "auxiliary_loss"),
    *("class_cost", "bbox_cost", "giou_cost", "mask_loss_coefficient", "dice_loss_coefficient"),
    *("bbox_loss_coefficient", "giou_loss_coefficient", "eos_coefficient"),
    *("init_std", "init_xavier_std"),
}
BOOKKEEPING = {
    *("architectures", "model_type", "_name_or_path", "transformers_version", "dtype"),
    *("torch_dtype", "id2label", "label2id", "num_labels", "problem_type", "return_dict"),
    *("output_attentions", "output_hidden_states", "is_encoder_decoder", "max_position_embeddings"),
    *("chunk_size_feed_forward", "hidden_size", "num_hidden_layers", "num_attention_heads"),
    *("torchscript", "finetuning_task", "_attn_implementation_autoset", "license", "use_cache"),
    *("gradient_checkpointing", "auto_map", "output_scores", "use_return_dict", "use_bfloat16"),
    *("_attn_implementation", "_commit_hash", "tokenizer_class", "category_ids", "stuff"),
}
BACKBONE = {"backbone", "backbone_config", "backbone_kwargs", "use_timm_backbone", "dilation"}


class Described(NamedTuple):
    """A builder's name and arguments, the classes, and a note for all that was assumed."""

    name: str
    kwargs: dict[str, Any]
    classes: Classes | None
    notes: list[str]


@dataclass(frozen=True)
class Fields:
    """What the fields of one kind of config mean.

    Attributes:
      architectures: the classes of transformers that it may be a config of.
      renamed: field → builder argument, and what transformers assumes where a file is silent.
      twins: field → the one of `renamed` that it must agree with.
      fixed: field → the only values that the builders reproduce, the first one assumed.
      counts: those of `renamed` that are whole numbers above 0.
      others: fields that are read apart, or that change nothing.
    """

    architectures: tuple[str, ...]
    renamed: Mapping[str, tuple[str, Any]]
    twins: Mapping[str, str]
    fixed: Mapping[str, tuple]
    counts: tuple[str, ...]
    others: Iterable[str] = ()

    def read(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The builder's arguments.

        Raises:
          UserError: a value that cannot be reproduced, by its field.
        """
        architectures = config.get("architectures", [self.architectures[0]])
        require("architectures", architectures, [[name] for name in self.architectures])
        for name, allowed in self.fixed.items():
            require(name, config.get(name, allowed[0]), allowed)
        for name in self.counts:
            require_count(name, config.get(name, self.renamed[name][1]))
        values = {name: config.get(name, value) for name, (_, value) in self.renamed.items()}
        for name, other in self.twins.items():
            require(name, config.get(name, self.renamed[other][1]), [values[other]])
        return {ours: values[name] for name, (ours, _) in self.renamed.items()}

    def note_unknown(self, config: Mapping[str, Any]) -> list[str]:
        """A note that names the fields nobody knows, if there are any."""
        known = {*self.renamed, *self.twins, *self.fixed, *self.others}
        known |= TRAINING | BOOKKEEPING | BACKBONE
        unknown = sorted(set(config) - known)
        what = "that these fields of config.json do not change the model"
        return [f"{what}: {', '.join(unknown)}"] if unknown else []


def require(field: str, value, allowed) -> None:
    """Raise `UserError` unless the field's value is one of those allowed."""
    if value not in list(allowed):
        options = " or ".join(repr(option) for option in allowed)
        raise UserError(f"config.json: {field} must be {options}; got {value!r}")


def require_count(field: str, value, least: int = 1) -> None:
    """Raise `UserError` unless the field's value is a whole number and large enough."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        allowed = f"a whole number above {least - 1}" if least else "a whole number, 0 or more"
        raise UserError(f"config.json: {field} must be {allowed}; got {value!r}")

"""Hugging Face's `config.json` of a DETR of ours."""

from collections.abc import Mapping
from typing import Any

from flax import linen as nn

from jaxseg.backbones.resnet import SIZES, FrozenBatchNorm
from jaxseg.data.classes import Classes
from jaxseg.errors import UserError
from jaxseg.models.detr import DetrSegmentation
from jaxseg.models.detr.builders import ACTIVATIONS, POSITIONS
from jaxseg_convert_torch.huggingface import ARCHITECTURES, RESNET, STAGES, hidden_sizes


def write_config(model: nn.Module, classes: Classes, table: str) -> dict[str, Any]:
    """The `config.json` with which transformers builds a DETR of ours.

    Args:
      table: whose names the weights have; only timm's backbones can be dilated.

    Raises:
      UserError: transformers' DETR has no such part.
    """
    encoder, decoder, backbone = model.encoder, model.decoder, model.backbone
    if backbone.norm is not FrozenBatchNorm or encoder.pre_norm:
        what = "pre-norm layers; write the official form instead"
        if backbone.norm is not FrozenBatchNorm:
            what = "group normalisation in its ResNet, nor has the official one: keep it native"
        raise UserError(f"transformers' DETR has no {what}")
    masks = isinstance(model, DetrSegmentation)
    if masks and encoder.activation is not ACTIVATIONS["relu"]:
        raise UserError("transformers' mask head has the transformer's activation, ours ReLU")
    architecture = next(name for name, drawn in ARCHITECTURES.items() if drawn == masks)
    id2label = {str(label): name for label, name in enumerate(classes.names)}
    return {
        "architectures": [architecture],
        "model_type": "detr",
        "d_model": model.width,
        "encoder_layers": encoder.num_layers,
        "decoder_layers": decoder.num_layers,
        "encoder_attention_heads": encoder.num_heads,
        "decoder_attention_heads": decoder.num_heads,
        "encoder_ffn_dim": encoder.feedforward,
        "decoder_ffn_dim": decoder.feedforward,
        "dropout": encoder.dropout,
        "activation_function": _name_of(encoder.activation, ACTIVATIONS),
        "position_embedding_type": _name_of(type(model.position), POSITIONS),
        "num_queries": model.num_queries,
        "id2label": id2label,
        "label2id": {name: int(label) for label, name in id2label.items()},
        "category_ids": list(classes.category_ids),
        **({"stuff": sorted(classes.stuff)} if classes.stuff else {}),
        **_write_backbone(backbone, table, masks),
    }


def _name_of(value, table: Mapping[str, Any]) -> str:
    return next(name for name, known in table.items() if known is value)


def _write_backbone(backbone, table, masks: bool) -> dict[str, Any]:
    depth = next(
        d for d, size in SIZES.items() if size == (tuple(backbone.depths), backbone.bottleneck)
    )
    if not table.startswith("detr.huggingface_resnet"):
        if backbone.width != RESNET["embedding_size"]:
            raise UserError(
                f"transformers takes dilated ResNets from timm, which has none with a stem of "
                f"{backbone.width} channels; write the official form instead"
            )
        return {
            "use_timm_backbone": True,
            "backbone": f"resnet{depth}",
            "dilation": backbone.dilation,
            "use_pretrained_backbone": False,
        }
    return {
        "use_timm_backbone": False,
        "backbone": None,
        "use_pretrained_backbone": False,
        "backbone_config": RESNET
        | {
            "model_type": "resnet",
            "depths": list(backbone.depths),
            "embedding_size": backbone.width,
            "hidden_sizes": hidden_sizes(backbone.width, backbone.bottleneck),
            "layer_type": "bottleneck" if backbone.bottleneck else "basic",
            "out_features": STAGES if masks else STAGES[-1:],
        },
    }

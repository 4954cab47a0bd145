"""Models by name: the allow-list from which a checkpoint's `config.json` may build."""

from collections.abc import Callable

from flax import linen as nn

from jaxseg.models import (
    clip,
    dab_deformable_detr,
    dab_detr,
    deformable_detr,
    detr,
    dino,
    dn_detr,
    grounding_dino,
    sam,
)

MODELS: dict[str, Callable[..., nn.Module]] = {
    "detr.r50": detr.r50,
    "detr.r50_dc5": detr.r50_dc5,
    "detr.r101": detr.r101,
    "detr.r101_dc5": detr.r101_dc5,
    "detr.r50_panoptic": detr.r50_panoptic,
    "detr.r50_dc5_panoptic": detr.r50_dc5_panoptic,
    "detr.r101_panoptic": detr.r101_panoptic,
    "detr.r50_instance": detr.r50_instance,
    "detr.r101_instance": detr.r101_instance,
    "detr.tiny": detr.tiny,
    "detr.tiny_masks": detr.tiny_masks,
    "deformable_detr.r50_single_scale": deformable_detr.r50_single_scale,
    "deformable_detr.r50_dc5_single_scale": deformable_detr.r50_dc5_single_scale,
    "deformable_detr.r50": deformable_detr.r50,
    "deformable_detr.r50_refine": deformable_detr.r50_refine,
    "deformable_detr.r50_refine_two_stage": deformable_detr.r50_refine_two_stage,
    "dab_detr.r50": dab_detr.r50,
    "dab_detr.r50_3patterns": dab_detr.r50_3patterns,
    "dab_detr.r50_dc5": dab_detr.r50_dc5,
    "dab_detr.r50_dc5_3patterns": dab_detr.r50_dc5_3patterns,
    "dab_deformable_detr.r50": dab_deformable_detr.r50,
    "dn_detr.r50": dn_detr.r50,
    "dn_detr.r50_dc5": dn_detr.r50_dc5,
    "dn_detr.r50_dc5_3patterns": dn_detr.r50_dc5_3patterns,
    "dn_detr.deformable_r50": dn_detr.deformable_r50,
    "dn_detr.encoder_only_r50": dn_detr.encoder_only_r50,
    "dino.r50_4scale": dino.r50_4scale,
    "dino.r50_5scale": dino.r50_5scale,
    "dino.swin_l_4scale": dino.swin_l_4scale,
    "dino.swin_l_5scale": dino.swin_l_5scale,
    "dino.vit_b_4scale": dino.vit_b_4scale,
    "dino.vit_l_4scale": dino.vit_l_4scale,
    "dino.tiny": dino.tiny,
    "grounding_dino.swin_t": grounding_dino.swin_t,
    "grounding_dino.swin_b": grounding_dino.swin_b,
    "grounding_dino.tiny": grounding_dino.tiny,
    "sam.vit_b": sam.vit_b,
    "sam.vit_l": sam.vit_l,
    "sam.vit_h": sam.vit_h,
    "sam.tiny": sam.tiny,
    "clip.vit_b32": clip.vit_b32,
    "clip.vit_b16": clip.vit_b16,
    "clip.vit_l14": clip.vit_l14,
    "clip.vit_l14_336": clip.vit_l14_336,
    "clip.tiny": clip.tiny,
}


def build(name: str, **fields) -> nn.Module:
    """Build a model of `MODELS`; `fields` are the builder's keyword arguments.

    Raises:
      ValueError: no model of this name, or the builder refuses a field.
    """
    if name not in MODELS:
        raise ValueError(f"no model {name!r}; there are {', '.join(sorted(MODELS))}")
    return MODELS[name](**fields)

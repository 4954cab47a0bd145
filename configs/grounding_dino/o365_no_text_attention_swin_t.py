"""Grounding DINO without text cross-attention (arXiv 2303.05499, its ablations).

    jaxseg train grounding_dino/o365_no_text_attention_swin_t \
        backbone=swin_tiny_patch4_window7_224.pth \
        text=google-bert/bert-base-uncased

As `grounding_dino/o365_swin_t`; the decoder's layers do not read the words.

Hardware: 16 accelerators of 32 GB.
Expected: zero-shot 46.1 AP on COCO's val2017, 14.3 on LVIS (the paper's); not run here.
"""

from jaxseg.train.experiment import Experiment
from jaxseg_configs.grounding_dino._recipe import objects365


def experiment() -> Experiment:
    return objects365(text_attention=False)

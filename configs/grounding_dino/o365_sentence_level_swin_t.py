"""Grounding DINO with sentence-level prompts (arXiv 2303.05499, figure 4).

    jaxseg train grounding_dino/o365_sentence_level_swin_t \
        backbone=swin_tiny_patch4_window7_224.pth \
        text=google-bert/bert-base-uncased

As `grounding_dino/o365_swin_t`; each name is one feature (figure 4, on the left).

Hardware: 16 accelerators of 32 GB.
Expected: the paper has no figure for it; not run here.
"""

from jaxseg.train.experiment import Experiment
from jaxseg_configs.grounding_dino._recipe import objects365


def experiment() -> Experiment:
    return objects365(text_level="sentence")

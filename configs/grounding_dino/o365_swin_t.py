"""Grounding DINO Swin-T on Objects365 (arXiv 2303.05499, the first row of its ablations).

    jaxseg train grounding_dino/o365_swin_t \
        backbone=swin_tiny_patch4_window7_224.pth \
        text=google-bert/bert-base-uncased

Objects365's annotations as ODVG with their label map; COCO and LVIS, which it never sees, are asked
for by the names of their classes. `data.prompts.vocabulary` is BERT's, from the
Hugging Face hub.

Hardware: 16 accelerators of 32 GB (the paper's: 16 V100, two images each).
Expected: zero-shot 46.7 AP on COCO's val2017, 16.1 on LVIS (the paper's); not run here.
"""

from jaxseg.train.experiment import Experiment
from jaxseg_configs.grounding_dino._recipe import objects365


def experiment() -> Experiment:
    return objects365()

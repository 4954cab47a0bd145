"""Grounding DINO Swin-T on detection, grounding and captions (arXiv 2303.05499; OGC).

    jaxseg train grounding_dino/goldg_cap4m_swin_t \
        backbone=swin_tiny_patch4_window7_224.pth \
        text=google-bert/bert-base-uncased

Objects365, the phrases of Flickr30k and of GQA's images, and captions with pseudo-labels, mixed by
their numbers of images. Every set is an ODVG file.

Hardware: 16 accelerators of 32 GB.
Expected: zero-shot 48.4 AP on COCO's val2017, 27.4 on LVIS (the paper's); not run here.
"""

from jaxseg.models import grounding_dino
from jaxseg.train.experiment import Experiment
from jaxseg_configs.grounding_dino._recipe import OBJECTS365, pretraining

# Data sets and millions of images.
TRAIN = (
    (OBJECTS365, 0.6),
    ("odvg:data/flickr30k/flickr30k_odvg.jsonl", 0.15),
    ("odvg:data/gqa/gqa_odvg.jsonl", 0.62),
    ("odvg:data/cap4m/cap4m_odvg.jsonl", 4.0),
)


def experiment() -> Experiment:
    return pretraining(grounding_dino.swin_t(remat=True), TRAIN)

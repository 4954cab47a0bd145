"""Go on from trained weights of Grounding DINO on a data set of one's own, in COCO form.

    jaxseg train grounding_dino/finetune init=IDEA-Research/grounding-dino-tiny \
        data.train=cells/train.json data.val=cells/val.json

`init` is a Hugging Face id, a folder, or an official file, which has no vocabulary: add
`data.prompts.vocabulary=google-bert/bert-base-uncased` then. Classes are asked for by their names,
with names that are absent among them, so nothing starts afresh. What the model knew before can be
watched: give a second evaluation, `'data.val={"own": "cells/val.json", "coco":
"coco:data/coco/val2017"}' metric=own/AP`. BERT stays as it is, which costs little and keeps more of
the rest; `optimizer.frozen=()` trains it too.

Hardware: one accelerator with 24 GB.
Expected: 57.3 AP on COCO's val2017 from the released weights (Open-GroundingDino's, with BERT
trained, 30 epochs of 16 images on COCO); not run here.
"""

import dataclasses

from jaxseg.train.experiment import Experiment
from jaxseg_configs.grounding_dino._recipe import OPTIMIZER, recipe


def experiment() -> Experiment:
    base = recipe(
        None, "data/train.json", "data/val.json", epochs=30, drop_every=10, vocabulary=None
    )
    optimizer = dataclasses.replace(OPTIMIZER, frozen=(("^bert/", True),))
    data = dataclasses.replace(base.data, batch_size=4, workers=4)
    return dataclasses.replace(base, data=data, optimizer=optimizer)

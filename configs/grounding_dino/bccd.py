"""A small Grounding DINO on blood cells, which are asked for by name, from random weights.

    jaxseg train grounding_dino/bccd data.train=bccd/instances_train.json \\
        data.val=bccd/instances_val.json

Any folder in COCO's form will do: its classes are the names. Words are spelt by letters, which is
enough to tell three of them apart; to speak more of a language, begin with BERT
(`data.prompts.vocabulary=...` and a model with its sizes).

Hardware: two CPU cores, about an hour.
Expected: AP / AP50 (averaged weights) 18.2 / 54.6 after the first 500 of 1,500 steps.
"""

import dataclasses

from jaxseg.data.prompts import Prompts
from jaxseg.models import grounding_dino
from jaxseg.train.experiment import Experiment
from jaxseg_configs.dino import bccd
from jaxseg_configs.grounding_dino._recipe import CRITERION
from jaxseg_configs.grounding_dino.synthetic import MODEL, WORDS


def experiment() -> Experiment:
    base = bccd.experiment()
    return dataclasses.replace(
        base,
        model=grounding_dino.tiny(vocabulary=MODEL["vocabulary"], canvas="padded"),
        data=dataclasses.replace(base.data, prompts=Prompts(str(WORDS), length=32)),
        criterion=CRITERION,
        steps=1500,
    )

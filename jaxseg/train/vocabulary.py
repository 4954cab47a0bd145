"""The vocabulary that a run makes its captions with."""

from dataclasses import replace
from pathlib import Path

from flax import linen as nn

from jaxseg import hub
from jaxseg.checkpoints import HUB_ID
from jaxseg.data.prompts import Prompts
from jaxseg.errors import UserError
from jaxseg.text.vocabulary import ALLOWED, find_vocabulary, open_vocabulary
from jaxseg.train.check_sets import check_captions
from jaxseg.train.experiment import Experiment
from jaxseg.vocabularies import locate_vocabulary


def prompts_for(experiment: Experiment, model: nn.Module) -> Prompts | None:
    """How a model is told what to look for, with a file as vocabulary.

    Raises:
      UserError: the model reads captions and none are made or the other way round, there is no
        vocabulary, or one that the text encoder does not know.
    """
    check_captions(experiment.data, model)
    if (prompts := experiment.data.prompts) is None:
        return None
    path = _vocabulary(prompts, experiment.init)
    words = open_vocabulary(path).length
    known = getattr(getattr(model, "bert", None), "vocabulary", words)
    if words > known:
        raise UserError(
            f"the vocabulary {path} has {words} words and the model's text encoder {known}: give "
            "data.prompts.vocabulary the one that the text encoder was made for"
        )
    return replace(prompts, vocabulary=str(path))


def _vocabulary(prompts: Prompts, init: str | None) -> Path:
    """The captions' own, or that of the weights which the run starts from."""
    if prompts.vocabulary:
        return locate_vocabulary(prompts.vocabulary)
    found = None if init is None else _beside(init)
    if found is None:
        lacking = "there are no weights (init) to bring one" if init is None else f"{init} has none"
        raise UserError(
            f"captions need a vocabulary, and {lacking}: set data.prompts.vocabulary to {ALLOWED}"
        )
    return found


def _beside(init: str) -> Path | None:
    """The vocabulary of weights, which need not be read for it."""
    if Path(init).exists() or not HUB_ID.fullmatch(init):
        return find_vocabulary(Path(init))
    return find_vocabulary(hub.fetch_vocabulary(init))

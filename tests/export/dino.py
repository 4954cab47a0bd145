"""A small DINO with random weights."""

from jaxseg.checkpoints import save_pretrained
from jaxseg.models import build
from jaxseg.params import abstract_inputs
from tests.weights import draw

FIELDS = {"num_queries": 20, "encoder_layers": 1, "decoder_layers": 2}


def save_dino(folder):
    """A folder of its weights."""
    model = build("dino.tiny", **FIELDS)
    params = draw(model, *abstract_inputs(model))
    save_pretrained(folder, "dino.tiny", FIELDS, params, probe=False)
    return folder

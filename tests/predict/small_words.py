"""A small Grounding DINO with random weights whose boxes, and likings, differ."""

from pathlib import Path

from jaxseg.checkpoints import ImageConfig, save_pretrained
from jaxseg.models import build
from jaxseg.params import abstract_inputs
from jaxseg.text.wordpiece import WordPiece
from tests.vocabulary import FOLDER, package_file
from tests.weights import draw

CONFIG = ImageConfig(short_side=64, long_side=96)
NAME = "grounding_dino.tiny"
FIELDS = {
    "stem": 8, "num_levels": 3, "width": 32, "num_heads": 2, "feedforward": 32,
    "encoder_layers": 1, "decoder_layers": 1, "fusion_heads": 2, "fusion_width": 32,
    "text_heads": 2, "text_feedforward": 32, "bert_layers": 1, "bert_width": 32, "bert_heads": 2,
    "bert_feedforward": 32, "num_queries": 12,
}  # fmt: skip


def vocabulary() -> Path:
    return package_file(f"{FOLDER}/vocab.txt")


def small_words():
    """Model, parameters and tokeniser."""
    model = build(NAME, **FIELDS)
    params = draw(model, *abstract_inputs(model), seed=1)
    # Products of random features of 32 numbers are far from 0: they would all be sure.
    params["decoder"]["norm"]["scale"] = 0.25 * params["decoder"]["norm"]["scale"]
    return model, params, WordPiece(vocabulary())


def save_words(folder: Path) -> Path:
    """A folder of these weights with their vocabulary."""
    _, params, _ = small_words()
    save_pretrained(
        folder, NAME, FIELDS, params, image=CONFIG, vocabulary=vocabulary(), probe=False
    )
    return folder

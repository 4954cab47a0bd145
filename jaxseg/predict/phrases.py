"""What to look for, as captions that a model can read in one pass each."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxseg.errors import UserError
from jaxseg.text.spans import (
    LENGTH,
    Spans,
    caption_of,
    pack_names,
    phrase_spans,
    positive_map,
    prepare_caption,
)
from jaxseg.text.wordpiece import Tokens, WordPiece

Text = str | Sequence[str]


class Pass(NamedTuple):
    """Phrases that are looked for together.

    Attributes:
      caption: that names them.
      ids: its tokens, (s,).
      labels: which phrases they are, (k,).
      tokens: True on the tokens of each, (k, s).
    """

    caption: str
    ids: np.ndarray
    labels: np.ndarray
    tokens: np.ndarray


class Wanted(NamedTuple):
    """Phrases, the place of each its label, and the passes that look for them."""

    phrases: tuple[str, ...]
    passes: tuple[Pass, ...]


def plan(text: Text, tokenizer: WordPiece, length: int = LENGTH) -> Wanted:
    """Read what to look for.

    A caption is read as it is ("two cats. a remote control."), lower-cased and closed by a full
    stop; its phrases lie between full stops and question marks, and one that it repeats is one.
    Names are put into captions of their own; one that stands in the list twice has its first place
    as its label. What has more than `length` tokens is looked for in several passes.

    Args:
      text: a caption, or a list of names.
      length: tokens that the model reads.

    Raises:
      UserError: nothing is named, a name is empty or nothing that the model can read, or one alone
        is too long.
    """
    if isinstance(text, str):
        return _plan_caption(text, tokenizer, length)
    names = list(text)
    if not names:
        raise UserError("name at least one thing to look for; got an empty list")
    for i, name in enumerate(names):
        if not isinstance(name, str) or not name.strip(" .?\t\n"):
            raise UserError(f"name {i} to look for must be a word or more; got {name!r}")
    # Each is closed by a full stop in any case.
    phrases = tuple(" ".join(name.split()).rstrip(" .") for name in names)
    return Wanted(phrases, _plan_names(phrases, tokenizer, length))


def _plan_caption(text: str, tokenizer: WordPiece, length: int) -> Wanted:
    caption = prepare_caption(text)
    spans: dict[str, list[tuple[int, int]]] = {}
    for begin, end, phrase in phrase_spans(caption):
        spans.setdefault(" ".join(phrase.split()), []).append((begin, end))
    if not spans:
        raise UserError(f"the caption must name something, as 'cat. dog.'; got {text!r}")
    phrases, tokens = tuple(spans), tokenizer([caption])
    if tokens.ids.shape[1] > length:
        return Wanted(phrases, _plan_names(phrases, tokenizer, length))
    every = list(range(len(phrases)))
    return Wanted(phrases, (_pass(caption, tokens, list(spans.values()), every, phrases),))


def _pass(
    caption: str, tokens: Tokens, spans: Spans, labels: list[int], phrases: Sequence[str]
) -> Pass:
    named = positive_map(tokens, 0, spans, tokens.ids.shape[1])
    for label, own in zip(labels, named, strict=True):
        if not own.any():
            raise UserError(f"the model can read nothing of {phrases[label]!r}: name it in words")
    return Pass(caption, tokens.ids[0], np.asarray(labels), named)


def _plan_names(names: Sequence[str], tokenizer: WordPiece, length: int) -> tuple[Pass, ...]:
    firsts = {name.lower(): label for label, name in reversed(list(enumerate(names)))}
    labels = sorted(firsts.values())
    chunks = pack_names(tokenizer, [names[label] for label in labels], length)
    return tuple(_named_pass(names, [labels[i] for i in chunk], tokenizer) for chunk in chunks)


def _named_pass(names: Sequence[str], labels: list[int], tokenizer: WordPiece) -> Pass:
    caption, spans = caption_of([names[label] for label in labels], ". ", ".")
    return _pass(caption, tokenizer([caption]), spans, labels, names)

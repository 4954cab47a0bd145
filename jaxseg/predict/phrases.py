"""What to look for, as captions that a model can read in one pass each."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxseg.errors import UserError
from jaxseg.text.spans import (
    LENGTH,
    Spans,
    caption_of,
    phrase_spans,
    positive_map,
    prepare_caption,
)
from jaxseg.text.wordpiece import Tokens, WordPiece

Text = str | Sequence[str]
ENDS = 2  # the tokens before and after a caption


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
    stop; its phrases lie between full stops and question marks. Names are put into captions of
    their own. What has more than `length` tokens is looked for in several passes.

    Args:
      text: a caption, or a list of names.
      length: tokens that the model reads.

    Raises:
      UserError: nothing is named, a name is empty, or one alone is too long.
    """
    if isinstance(text, str):
        return _plan_caption(text, tokenizer, length)
    names = list(text)
    if not names:
        raise UserError("name at least one thing to look for; got an empty list")
    for i, name in enumerate(names):
        if not isinstance(name, str) or not name.strip(" .?\t\n"):
            raise UserError(f"name {i} to look for must be a word or more; got {name!r}")
    phrases = tuple(" ".join(name.split()) for name in names)
    return Wanted(phrases, _plan_names(phrases, tokenizer, length))


def _plan_caption(text: str, tokenizer: WordPiece, length: int) -> Wanted:
    caption = prepare_caption(text)
    found = phrase_spans(caption)
    if not found:
        raise UserError(f"the caption must name something, as 'cat. dog.'; got {text!r}")
    phrases = tuple(phrase for _, _, phrase in found)
    tokens = tokenizer([caption])
    if tokens.ids.shape[1] > length:
        return Wanted(phrases, _plan_names(phrases, tokenizer, length))
    spans = [[(begin, end)] for begin, end, _ in found]
    return Wanted(phrases, (_pass(caption, tokens, spans, np.arange(len(found))),))


def _pass(caption: str, tokens: Tokens, spans: Spans, labels: np.ndarray) -> Pass:
    n = tokens.ids.shape[1]
    return Pass(caption, tokens.ids[0], labels, positive_map(tokens, 0, spans, n))


def _plan_names(names: Sequence[str], tokenizer: WordPiece, length: int) -> tuple[Pass, ...]:
    # Word pieces do not reach beyond their words, so lengths add up; each has its full stop.
    counts = tokenizer(names).counts - ENDS + 1
    room, chunks, used = length - ENDS, [[]], 0
    for label, count in enumerate(counts):
        if count > room:
            raise UserError(
                f"the name {names[label][:60]!r} has {count} tokens with its full stop, and the "
                f"model reads {room} at a time: shorten it"
            )
        if used + count > room:
            chunks.append([])
            used = 0
        chunks[-1].append(label)
        used += count
    return tuple(_named_pass(names, chunk, tokenizer) for chunk in chunks)


def _named_pass(names: Sequence[str], labels: list[int], tokenizer: WordPiece) -> Pass:
    caption, spans = caption_of([names[label] for label in labels], ". ", ".")
    return _pass(caption, tokenizer([caption]), spans, np.asarray(labels))

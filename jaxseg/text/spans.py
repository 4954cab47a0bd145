"""Where in a caption its phrases stand, in characters and in tokens (Grounding DINO).

A caption names things one after the other: "cat . traffic light ." Each phrase ends with a full
stop or a question mark; its tokens see each other and no other phrase's.

    caption, spans = caption_of(["cat", "traffic light"])
    tokens = tokenizer([caption])
    named = positive_map(tokens, 0, spans)          # (2, 256): the tokens of each name
    captions = encode_captions(tokenizer, [caption])

Names that are too many for one caption: `pack_names`.
"""

import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from jaxseg.errors import UserError
from jaxseg.structures import Captions
from jaxseg.text.wordpiece import BEGIN, END, PAD, Tokens, WordPiece
from jaxseg.typing import Bool, Float, Int

Spans = list[list[tuple[int, int]]]

LENGTH = 256  # tokens that a released model reads
ENDS = 2  # tokens of a caption that belong to no name: the first and the last
# What the tokeniser makes a separator of.
SEPARATOR = re.compile(rf"[.?]|{re.escape(BEGIN)}|{re.escape(END)}")
# From a span's ends towards its middle, past what is no token's.
REACH = 3
# A phrase's words are looked for before this token.
LAST = LENGTH - 1


def prepare_caption(text: str) -> str:
    """A caption as the models were trained on: lower-case, and closed by a full stop."""
    text = text.lower().strip()
    return text if text.endswith(".") else text + "."


def caption_of(names: Sequence[str], separator: str = " . ", end: str = " .") -> tuple[str, list]:
    """A caption that names classes, and the characters [begin, end) of every word of each.

    Names are lower-cased and their words joined by single spaces. A name without a word has no
    place in the caption and no spans. A name with a full stop or a question mark in it becomes
    several phrases, whose tokens its spans still hold together.
    """
    caption, spans = "", []
    for words in (name.lower().split() for name in names):
        if words and caption:
            caption += separator
        found = []
        for i, word in enumerate(words):
            caption += " " if i else ""
            found.append((len(caption), len(caption) + len(word)))
            caption += word
        spans.append(found)
    return caption + end if caption else "", spans


def name_costs(tokenizer: WordPiece, names: Sequence[str]) -> Int[np.ndarray, " k"]:
    """How many tokens of a caption each name takes, its full stop among them; 1 of no word."""
    # Word pieces do not reach beyond their words, so that lengths add up.
    return tokenizer(names).counts - ENDS + 1


def pack_names(
    tokenizer: WordPiece,
    names: Sequence[str],
    length: int = LENGTH,
    *,
    at_once: int | None = None,
    what: Sequence[str] | None = None,
) -> list[range]:
    """Which names stand together in a caption, so that few captions name all of them in order.

    Args:
      length: tokens of a caption at most.
      at_once: names of a caption at most; None: as many as it holds.
      what: how an error calls each; None: "the name 'cat'".

    Returns:
      The places of the names of each caption.

    Raises:
      UserError: a name of which the model can read nothing, or that no caption holds.
    """
    room, left, firsts = length - ENDS, 0, []
    for i, cost in enumerate(name_costs(tokenizer, names).tolist()):
        called = what[i] if what is not None else f"the name {_shown(names[i])}"
        if cost == 1:
            raise UserError(f"the model can read nothing of {called}: say it in words")
        if cost > room:
            raise UserError(
                f"{called} has {cost} tokens with its full stop, and the model reads {room} at a "
                "time: shorten it"
            )
        if not firsts or cost > left or i - firsts[-1] == at_once:
            firsts.append(i)
            left = room
        left -= cost
    return [range(first, end) for first, end in pairwise([*firsts, len(names)])]


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def phrase_spans(caption: str) -> list[tuple[int, int, str]]:
    """The phrases of a caption as it is written: begin and end in characters, and the text.

    They lie between separators, without the spaces around them; what is empty is none.
    """
    found, begin = [], 0
    stops = [match.span() for match in SEPARATOR.finditer(caption)]
    for stop, after in (*stops, (len(caption), len(caption))):
        text = caption[begin:stop].strip()
        if text:
            left = caption.index(text, begin)
            found.append((left, left + len(text), text))
        begin = after
    return found


def sub_sentences(
    ids: Int[np.ndarray, "b s"], mask: Bool[np.ndarray, "b s"], separators: Sequence[int]
) -> tuple[Bool[np.ndarray, "b s s"], Int[np.ndarray, "b s"], list]:
    """Which token may attend which, where in its phrase each stands, and the phrases.

    A separator closes the phrase since the separator before it and belongs to it. One in the first
    or in the last column closes nothing: the words before it, if a caption is the batch's longest
    and has no full stop at its end, are left to themselves at position 0, as in the original.

    Args:
      ids, mask: of the whole batch, not cut; True on tokens.
      separators: ids of the tokens that end a phrase.

    Returns:
      attend: True where the token of the row may attend that of the column; always itself.
      positions: from 0 in every phrase.
      phrases: for each caption (phrase, s), True on the tokens of a phrase without its separator;
        none of them where the original fails for want of a separator.
    """
    b, n = ids.shape
    attend = np.tile(np.eye(n, dtype=bool), (b, 1, 1))
    positions = np.zeros((b, n), np.int32)
    phrases = []
    for row, stops in enumerate(np.isin(ids, np.array(separators)) & mask):
        previous, found = 0, [np.zeros((0, n), bool)]
        for stop in np.flatnonzero(stops):
            if 0 < stop < n - 1:
                block = slice(previous + 1, stop + 1)
                attend[row, block, block] = True
                positions[row, block] = np.arange(stop - previous)
                found.append((np.arange(n) > previous)[None] & (np.arange(n) < stop))
            previous = stop
        phrases.append(np.concatenate(found))
    return attend, positions, phrases


def positive_map(
    tokens: Tokens, row: int, spans: Sequence[Sequence[Sequence[int]]], length: int = LENGTH
) -> Bool[np.ndarray, "k {length}"]:
    """True on the tokens that each name's characters went into.

    A span's ends may lie up to two characters outside its words. Tokens past `length` are left
    out, and a span without any token is. A character that became several tokens (a Korean
    syllable may) counts as the first of them, at a span's end too, as in the original.

    Args:
      row: of the caption in `tokens`.
      spans: for each name, characters [begin, end) of the caption.
    """
    named = np.zeros((len(spans), length), bool)
    for name, parts in enumerate(spans):
        for begin, end in parts:
            first = _token_near(tokens, row, begin, 1)
            last = _token_near(tokens, row, end - 1, -1)
            if first is not None and last is not None:
                named[name, first : last + 1] = True
    return named


def _token_near(tokens, row, character, step):
    near = (tokens.token_at(row, character + step * i) for i in range(REACH))
    return next((token for token in near if token is not None), None)


def phrase_of(
    tokenizer: WordPiece,
    ids: Int[np.ndarray, " s"],
    probabilities: Float[np.ndarray, " k"],
    threshold: float,
    *,
    remove_combined: bool = False,
) -> str:
    """What a query was told by, as the original's demo words it.

    The tokens above the threshold are decoded, wherever they stand in the caption, without full
    stops; the first token and those from the 256th on are left out.

    Args:
      ids: of the caption's tokens; padding may follow.
      probabilities: of each token.
      remove_combined: only tokens between the full stops around the likeliest one.
    """
    first, stop = 0, LAST
    if remove_combined:
        ends = [tokenizer.id_of(token) for token in (BEGIN, END, ".")]
        # A caption that was cut ends without one.
        places = [*np.flatnonzero(np.isin(ids, ends)), len(ids)]
        right = int(np.searchsorted(places, np.argmax(probabilities)))
        # The first token has none before it: the last one stands in, and nothing is between.
        first, stop = places[right - 1], places[right]
    count = min(len(ids), len(probabilities))
    place = np.arange(count)
    chosen = (probabilities[:count] > threshold) & (place > first) & (place < stop)
    return tokenizer.decode(ids[:count][chosen]).replace(".", "")


def encode_captions(
    tokenizer: WordPiece,
    texts: Sequence[str],
    length: int = LENGTH,
    pad_to: int | None = None,
    *,
    strict: bool = False,
) -> Captions:
    """Captions as a model reads them, in numpy.

    The masks are the original's: made for the whole batch before it is cut. A caption that ends
    with a full stop (`prepare_caption`) is encoded alike in every batch; the last words of one
    without depend on whether it is the longest. What `pad_to` adds comes after, and changes
    nothing.

    Args:
      length: tokens that the model reads; what is past them is cut.
      pad_to: tokens of the result, so that every batch has the same shape; None: the longest's.
      strict: raise rather than cut.

    Raises:
      UserError: a caption longer than `length` where `strict`, or than `pad_to` after the cut.
    """
    tokens = tokenizer(texts)
    if strict:
        _check_length(texts, tokens, length)
    attend, positions, _ = sub_sentences(tokens.ids, tokens.mask, tokenizer.separators)
    n = min(tokens.ids.shape[1], length)
    width = n if pad_to is None else pad_to
    if width < n:
        raise UserError(f"pad_to is {pad_to}, and a caption has {n} tokens: pad to {length}")

    def resize(x, value=0):
        cut = x[:, :n, :n] if x.ndim == 3 else x[:, :n]
        after = [(0, 0)] + [(0, width - n)] * (x.ndim - 1)
        return np.pad(cut, after, constant_values=value)

    return Captions(
        ids=resize(tokens.ids, tokenizer.id_of(PAD)),
        mask=resize(tokens.mask),
        attend=resize(attend) | np.eye(width, dtype=bool),
        positions=resize(positions),
    )


def _check_length(texts, tokens, length):
    for text, count in zip(texts, tokens.counts, strict=True):
        if count > length:
            raise UserError(
                f"the caption {_shown(text)} has {count} tokens and the model reads {length}: name "
                "fewer things at a time, in several captions"
            )

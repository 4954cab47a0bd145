"""CLIP's tokeniser: byte pairs (arXiv 1508.07909) over the bytes of clean, lower-case words.

tokens = BytePairs("bpe_simple_vocab_16e6.txt.gz")
ids = tokens(["a photo of a cat", "zebra"])        # int32 (2, 77)
"""

import functools
import gzip
import html
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, SupportsInt

import ftfy
import numpy as np
from tokenizers import Regex
from tokenizers.pre_tokenizers import Split

from jaxseg.errors import UserError

START, END, LAST = "<|startoftext|>", "<|endoftext|>", "</w>"
CONTEXT = 77
MERGES = 49152 - 256 - 2  # the file lists many more
# Files of a folder: OpenAI's, then those that Hugging Face's tokenisers are saved as.
FILES = ("bpe_simple_vocab_16e6.txt.gz", "bpe_simple_vocab_16e6.txt", "merges.txt")
# Endings of English words, runs of letters, single digits, runs of anything else that is seen.
WORD = Split(
    Regex(
        rf"(?i){re.escape(START)}|{re.escape(END)}|'s|'t|'re|'ve|'m|'ll|'d|\p{{L}}+|\p{{N}}"
        r"|[^\s\p{L}\p{N}]+"
    ),
    behavior="removed",
    invert=True,
)

Pair = tuple[str, str]


class Vocabulary(NamedTuple):
    """Tokens by name, and the pairs that are merged, in order."""

    ids: Mapping[str, int]
    merges: Sequence[Pair]


class BytePairs:
    """Texts to token ids and back.

    Attributes:
      ids: of every token by its name.
      start, end: ids of the tokens that stand around a text; `end` is the largest there is.
    """

    def __init__(self, merges: str | os.PathLike):
        """Read a vocabulary.

        Args:
          merges: OpenAI's `bpe_simple_vocab_16e6.txt`, packed or not; or a folder with it or with
            the files of Hugging Face's tokeniser (`vocab.json` and `merges.txt`, or
            `tokenizer.json`).

        Raises:
          UserError: no such file, or one of another form.
        """
        self.ids, pairs = read_vocabulary(Path(merges))
        if absent := [token for token in (START, END) if token not in self.ids]:
            raise UserError(f"the vocabulary {merges} has no token {absent[0]}: it is not CLIP's")
        self.start, self.end = self.ids[START], self.ids[END]
        self._names = {number: token for token, number in self.ids.items()}
        self._ranks = {pair: rank for rank, pair in enumerate(pairs)}
        self._word = functools.lru_cache(2**16)(self._merged)

    def __call__(
        self, texts: str | Sequence[str], context: int = CONTEXT, truncate: bool = False
    ) -> np.ndarray:
        """Ids of texts as int32 (b, context): start, tokens, end, then zeros.

        Args:
          texts: one is a batch of one.
          context: tokens of a row.
          truncate: cut what is too long and end it.

        Raises:
          UserError: a text that is too long.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        ids = np.zeros((len(texts), context), np.int32)
        for row, text in enumerate(texts):
            tokens = [self.start, *self.tokenize(text), self.end]
            if len(tokens) > context and not truncate:
                raise UserError(
                    f"text {row}, {_shown(text)}, has {len(tokens)} tokens with its start and end, "
                    f"and {context} fit: shorten it, or cut it with truncate=True"
                )
            tokens = tokens if len(tokens) <= context else [*tokens[: context - 1], self.end]
            ids[row, : len(tokens)] = tokens
        return ids

    def tokenize(self, text: str) -> list[int]:
        """Ids of a text, without start and end."""
        words = (word for word, _ in WORD.pre_tokenize_str(clean(text)))
        return [self.ids[token] for word in words for token in self._word(word)]

    def decode(self, ids: Iterable[SupportsInt]) -> str:
        """The clean text of a row of ids, up to its end; special tokens are left out.

        Raises:
          UserError: a number that no token has.
        """
        names = []
        for number in map(int, ids):
            if number not in self._names:
                raise UserError(f"there is no token {number}; there are {len(self.ids)}")
            if number == self.end:
                break
            names += [] if number == self.start else [self._names[number]]
        letters = _bytes()
        text = "".join(names).replace(LAST, " ")
        raw = b"".join(b" " if letter == " " else letters[letter] for letter in text)
        return raw.decode("utf-8", errors="replace").strip()

    def _merged(self, word: str) -> list[str]:
        """The tokens of one word: its bytes, of which the pair of lowest rank is merged again and
        again."""
        if word in (START, END):
            return [word]
        parts = [_letters()[byte] for byte in word.encode()]
        parts[-1] += LAST
        while len(parts) > 1:
            best = min(pairwise(parts), key=lambda pair: self._ranks.get(pair, len(self._ranks)))
            if best not in self._ranks:
                break
            parts = _merge(parts, best)
        return parts


def clean(text: str) -> str:
    """Mend wrongly decoded letters, resolve HTML's entities twice, leave single spaces between
    words, lower-case."""
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return re.sub(r"\s+", " ", text).strip().lower()


def _merge(parts: list[str], pair: Pair) -> list[str]:
    merged: list[str] = []
    i = 0
    while i < len(parts):
        found = tuple(parts[i : i + 2]) == pair
        merged.append("".join(pair) if found else parts[i])
        i += 1 + found
    return merged


@functools.cache
def _letters() -> list[str]:
    """A printable character for each byte: its own where Latin-1 has one, else from 256 on."""
    own = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte if byte in own else next(others)) for byte in range(256)]


@functools.cache
def _bytes() -> dict[str, bytes]:
    return {letter: bytes([byte]) for byte, letter in enumerate(_letters())}


def read_vocabulary(path: Path) -> Vocabulary:
    """OpenAI's file, a `tokenizer.json`, or what a folder holds.

    Raises:
      UserError: nothing there, or of another form.
    """
    if path.suffix == ".json" and path.is_file():
        return _read_tokenizer(path)
    if not path.is_dir():
        pairs = _read_merges(path)
        return Vocabulary(_number(pairs), pairs)
    if (path / "tokenizer.json").exists() and not (path / "vocab.json").exists():
        return _read_tokenizer(path / "tokenizer.json")
    found = next((path / name for name in FILES if (path / name).exists()), None)
    if found is None:
        raise UserError(
            f"{path} has no vocabulary of CLIP: looked for {', '.join(FILES)} and tokenizer.json"
        )
    pairs = _read_merges(found)
    if found.name != "merges.txt":
        return Vocabulary(_number(pairs), pairs)
    return _checked(path / "vocab.json", _read_json(path / "vocab.json"), pairs)


def _number(pairs: Sequence[Pair]) -> dict[str, int]:
    """Ids in CLIP's order: printable bytes first, then the rest; each as a word's last; merges."""
    letters = sorted(_letters())
    names = [*letters, *(letter + LAST for letter in letters), *map("".join, pairs), START, END]
    return {name: number for number, name in enumerate(names)}


def _read_merges(path: Path) -> list[Pair]:
    try:
        data = path.read_bytes()
        packed = data.startswith(b"\x1f\x8b")
        lines = (gzip.decompress(data) if packed else data).decode("utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(
            f"there is no vocabulary {path}: give CLIP's {FILES[0]} (it lies in its repository, "
            "openai/CLIP, and in the package open_clip_torch), or a folder of Hugging Face's"
        ) from None
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the vocabulary {path}: {error}") from error
    return _pairs(path, [line.split() for line in lines[1:] if line][:MERGES])


def _pairs(path: Path, rows: Sequence[Sequence[str]]) -> list[Pair]:
    if wrong := [row for row in rows if len(row) != 2]:
        raise UserError(f"{path} is no list of merges: it holds {_shown(' '.join(wrong[0]))}")
    return [(first, second) for first, second in rows]


def _read_tokenizer(path: Path) -> Vocabulary:
    content = _read_json(path)
    try:
        model = content["model"]
        added = {token["content"]: token["id"] for token in content.get("added_tokens", ())}
        rows = [row.split() if isinstance(row, str) else row for row in model["merges"]]
        ids = model["vocab"] | added
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no tokeniser of byte pairs: {error!r}") from error
    return _checked(path, ids, _pairs(path, rows))


def _checked(path: Path, ids: Any, pairs: list[Pair]) -> Vocabulary:
    numbers = isinstance(ids, dict) and all(isinstance(number, int) for number in ids.values())
    if not numbers:
        raise UserError(f"{path} must map tokens to numbers")
    tokens = {*_letters(), *(letter + LAST for letter in _letters()), *map("".join, pairs)}
    if absent := sorted(tokens - set(ids)):
        raise UserError(f"{path} lacks {len(absent)} tokens of CLIP's, such as {absent[0]!r}")
    return Vocabulary(ids, pairs)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the vocabulary {path}: {error}") from error


def _shown(text: Any) -> str:
    text = str(text)
    return repr(text if len(text) <= 60 else f"{text[:57]}...")

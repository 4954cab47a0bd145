"""BERT's tokeniser: word pieces, and which characters each was made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from jaxseg.errors import UserError
from jaxseg.typing import Bool, Int

PAD, UNKNOWN, BEGIN, END = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
SPECIAL = (PAD, UNKNOWN, BEGIN, END, "[MASK]")
SEPARATORS = (BEGIN, END, ".", "?")
LONGEST_WORD = 100  # characters; a longer one is unknown
# What decoding mends, in this order.
CLEANUP = (
    *((f" {mark}", mark) for mark in ".?!,"),
    (" ' ", "'"),
    *((f" {ending}", ending) for ending in ("n't", "'m", "'s", "'ve", "'re")),
)


@dataclass(frozen=True)
class Tokens:
    """Texts as word pieces, padded to the longest.

    Attributes:
      ids: of the tokens, the specials at both ends of a text included.
      mask: True on tokens, False on padding.
      offsets: the characters [begin, end) of the text that a token stands for; (-1, -1) for the
        specials at its ends and for padding.
    """

    ids: Int[np.ndarray, "b s"]
    mask: Bool[np.ndarray, "b s"]
    offsets: Int[np.ndarray, "b s 2"]

    @property
    def counts(self) -> Int[np.ndarray, " b"]:
        """How many tokens each text has."""
        return self.mask.sum(1)

    def token_at(self, row: int, character: int) -> int | None:
        """The token that a text's character went into; None for whitespace, and for what the
        tokeniser drops."""
        begins, ends = self.offsets[row].T
        found = np.flatnonzero((begins <= character) & (character < ends))
        return int(found[0]) if found.size else None


class WordPiece:
    """The tokeniser of a vocabulary."""

    def __init__(self, vocabulary: str | Path):
        """Read a vocabulary.

        Args:
          vocabulary: a file of one piece a line, for lower-cased text (`vocab.txt`), or a
            `tokenizer.json`, whose own normalisation is used.

        Raises:
          UserError: no such file, or no vocabulary of word pieces.
        """
        path = Path(vocabulary)
        self._tokenizer = _read_json(path) if path.suffix == ".json" else _read_lines(path)
        absent = [
            token for token in (*SPECIAL[:-1], ".", "?")
            if self._tokenizer.token_to_id(token) is None
        ]  # fmt: skip
        if absent:
            raise UserError(
                f"{path} is no vocabulary of BERT's: it has no {', '.join(absent)}; a vocab.txt "
                "has one piece a line, [PAD], [UNK], [CLS] and [SEP] among them"
            )
        self._prepare()

    def _prepare(self) -> None:
        tokenizer = self._tokenizer
        tokenizer.no_truncation()  # sentence encoders' files cut to 128 and pad to it
        tokenizer.no_padding()
        tokenizer.add_special_tokens([s for s in SPECIAL if tokenizer.token_to_id(s) is not None])
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{BEGIN} $A {END}",
            special_tokens=[(token, tokenizer.token_to_id(token)) for token in (BEGIN, END)],
        )
        tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=False)

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """The tokens of texts, however many they are: nothing is cut.

        Raises:
          UserError: one bare string, or a text with half of a surrogate pair.
        """
        if isinstance(texts, str):
            raise UserError(f"texts come as a list; got the string {texts[:40]!r}: write [text]")
        encodings = [self._encode(text) for text in texts]
        shape = (len(encodings), max((len(e.ids) for e in encodings), default=0))
        ids = np.full(shape, self.id_of(PAD), np.int32)
        mask = np.zeros(shape, bool)
        offsets = np.full((*shape, 2), -1, np.int32)
        for row, encoding in enumerate(encodings):
            count = len(encoding.ids)
            ids[row, :count] = encoding.ids
            mask[row, :count] = True
            # None: put there by the template, and not in the text.
            own = np.array([sequence is not None for sequence in encoding.sequence_ids])
            offsets[row, :count][own] = np.array(encoding.offsets)[own]
        return Tokens(ids, mask, offsets)

    def _encode(self, text):
        try:
            # One at a time: batches would start threads, which a loader's forks do not survive.
            return self._tokenizer.encode(text)
        except (TypeError, UnicodeEncodeError):
            raise UserError(f"a text is a string of whole characters; got {text!r}") from None

    def decode(self, ids: Sequence[int] | Int[np.ndarray, " s"]) -> str:
        """Pieces joined to words and words by spaces, specials included."""
        text = self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=False)
        for found, replacement in CLEANUP:
            text = text.replace(found, replacement)
        return text

    def id_of(self, token: str) -> int:
        """The id of a piece that the vocabulary has."""
        return self._tokenizer.token_to_id(token)

    @cached_property
    def separators(self) -> tuple[int, ...]:
        """The ids that phrases end with: of [CLS], [SEP], "." and "?"."""
        return tuple(map(self.id_of, SEPARATORS))

    @property
    def length(self) -> int:
        """How many ids there are."""
        return self._tokenizer.get_vocab_size()


def _read_lines(path: Path) -> Tokenizer:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the vocabulary {path}: {error}") from None
    vocabulary = {line: i for i, line in enumerate(lines) if line}
    tokenizer = Tokenizer(
        models.WordPiece(vocabulary, unk_token=UNKNOWN, max_input_chars_per_word=LONGEST_WORD)
    )
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def _read_json(path: Path) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise UserError(f"cannot read the tokeniser {path}: {error}") from None
    if not isinstance(tokenizer.model, models.WordPiece):
        raise UserError(
            f"{path} is a tokeniser of the kind {type(tokenizer.model).__name__}; BERT reads "
            "WordPiece"
        )
    return tokenizer

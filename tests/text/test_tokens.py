"""Word pieces: which characters they stand for, and what becomes of odd text."""

import pickle

import numpy as np
import pytest
from transformers import BertTokenizerFast

from jaxseg.errors import UserError
from jaxseg.text.wordpiece import WordPiece
from tests.vocabulary import FOLDER, package_file

ODD = [
    "",
    "   ",
    "A Cat. A remote-control.",
    "naïve café, owners' crêpes cost €12.50 (tax incl.)",
    "東京 tower . ひらがな . 한국어",
    "a 😀 emoji . 👩‍👩‍👧 family .",
    "dog... cat?? bird!?",
    "zero\u200bwidth \u0000nul \ufffd gone\ttab",
    "x" * 101 + " . short",
    "İstanbul . STRASSE . ﬁsh . Ⅻ",
    "[CLS] cat [SEP] dog [MASK] [sep]",
    "it's n't 've been",
    "supercalifragilisticexpialidocious",
]


@pytest.fixture(scope="module")
def huggingface():
    return BertTokenizerFast.from_pretrained(package_file(f"{FOLDER}/vocab.txt").parent)


def test_tokens_and_lookups_are_huggingfaces_for_odd_text(tokenizer, huggingface):
    tokens = tokenizer(ODD)
    for row, text in enumerate(ODD):
        theirs = huggingface(text, truncation=False, padding=False)
        count = tokens.counts[row]
        assert tokens.ids[row, :count].tolist() == theirs["input_ids"], text
        for character in range(len(text)):
            assert tokens.token_at(row, character) == theirs.char_to_token(character), text


def test_decoded_text_is_huggingfaces(tokenizer, huggingface):
    for text in ODD:
        ids = huggingface(text, truncation=False)["input_ids"]
        for some in (ids, ids[2:], ids[1::2]):
            wanted = huggingface.decode(
                some, skip_special_tokens=False, clean_up_tokenization_spaces=True
            )
            assert tokenizer.decode(some) == wanted


def test_texts_are_padded_to_the_longest_with_the_padding_token(tokenizer):
    tokens = tokenizer(["a cat .", "dog"])
    assert tokens.ids.tolist() == [[101, 1037, 4937, 1012, 102], [101, 3899, 102, 0, 0]]
    assert tokens.mask.tolist() == [[True] * 5, [True] * 3 + [False] * 2]
    assert tokens.counts.tolist() == [5, 3]


def test_offsets_are_characters_and_specials_have_none(tokenizer):
    offsets = tokenizer(["A caf\u00e9, 😀!", "x"]).offsets
    assert offsets[0].tolist() == [[-1, -1], [0, 1], [2, 6], [6, 7], [8, 9], [9, 10], [-1, -1]]
    assert offsets[1].tolist() == [[-1, -1], [0, 1]] + [[-1, -1]] * 5


def test_nothing_is_cut(tokenizer):
    tokens = tokenizer(["dog " * 1000])
    assert tokens.ids.shape == (1, 1002)


def test_a_tokenizer_json_is_read_without_its_truncation_and_padding(tokenizer):
    other = WordPiece(package_file(f"{FOLDER}/tokenizer.json"))
    texts = [*ODD, "dog " * 1000]
    ours, theirs = tokenizer(texts), other(texts)
    np.testing.assert_array_equal(ours.ids, theirs.ids)
    np.testing.assert_array_equal(ours.offsets, theirs.offsets)


def test_no_texts_are_no_tokens(tokenizer):
    assert tokenizer([]).ids.shape == (0, 0)


def test_separators_and_length_are_the_vocabularys(tokenizer):
    assert tokenizer.separators == (101, 102, 1012, 1029)
    assert tokenizer.length == 30522


def test_a_tokenizer_goes_to_a_worker_process(tokenizer):
    again = pickle.loads(pickle.dumps(tokenizer))
    np.testing.assert_array_equal(again(ODD).ids, tokenizer(ODD).ids)


def test_what_is_no_list_of_texts_is_told(tokenizer):
    with pytest.raises(UserError, match=r"texts come as a list; got the string 'a cat'"):
        tokenizer("a cat")
    with pytest.raises(UserError, match="a string of whole characters"):
        tokenizer(["half \ud83d of a pair"])

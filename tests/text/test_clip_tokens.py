"""CLIP's tokeniser: its ids, its cleaning, and what it refuses."""

import gzip
import json

import numpy as np
import pytest
from transformers import CLIPTokenizer

from jaxseg.errors import UserError
from jaxseg.text.bpe import BytePairs, clean
from tests.vocabulary import package_file

START, END = 49406, 49407
TEXTS = [
    "a photo of a cat",
    "Two dogs, one red ball & a kid's bicycle!",
    "they've said it'll rain; I'd say it won't",
    "room 1024, 3.5 m\u00b2",
    "\u00fcn\u00efc\u00f6d\u00e9 \u2014 na\u00efve caf\u00e9",
    "\u732b\u3068\u72ac \U0001f431\U0001f469\u200d\U0001f680",
    "snake_case #hashtag @user --- ...",
    "",
]


@pytest.fixture(scope="module")
def merges():
    return package_file("open_clip/bpe_simple_vocab_16e6.txt.gz", "open_clip_torch", "3.3.0")


@pytest.fixture(scope="module")
def tokens(merges):
    return BytePairs(merges)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokens):
    """The vocabulary as Hugging Face keeps it."""
    path = tmp_path_factory.mktemp("huggingface")
    (path / "vocab.json").write_text(json.dumps(dict(tokens.ids)))
    pairs = sorted(tokens._ranks, key=tokens._ranks.__getitem__)
    (path / "merges.txt").write_text("\n".join(["#version: 0.2", *map(" ".join, pairs), ""]))
    return path


def words(tokens, text):
    names = {number: name for name, number in tokens.ids.items()}
    return [names[number] for number in tokens.tokenize(text)]


def test_known_words_have_their_published_ids(tokens):
    ids = tokens(["a photo of a cat", "zebra"])
    assert ids.shape == (2, 77)
    assert ids.dtype == np.int32
    assert ids[0, :8].tolist() == [START, 320, 1125, 539, 320, 2368, END, 0]
    assert ids[1, :4].tolist() == [START, 22548, END, 0]
    assert len(tokens.ids) == 49408
    assert (tokens.start, tokens.end) == (START, END)


def test_ids_are_those_of_transformers(tokens, folder):
    theirs = CLIPTokenizer.from_pretrained(folder)
    for text in TEXTS:
        assert [START, *tokens.tokenize(text), END] == theirs(text)["input_ids"], text


def test_huggingface_folders_of_old_and_new_give_the_same_ids(tmp_path, tokens, folder):
    CLIPTokenizer.from_pretrained(folder).backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    for path in (folder, tmp_path):
        np.testing.assert_array_equal(BytePairs(path)(TEXTS), tokens(TEXTS))


def test_an_unpacked_file_is_read_too(tmp_path, merges, tokens):
    path = tmp_path / "bpe_simple_vocab_16e6.txt"
    path.write_bytes(gzip.decompress(merges.read_bytes()))
    for given in (path, tmp_path):
        np.testing.assert_array_equal(BytePairs(given)(TEXTS), tokens(TEXTS))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("caf\u00c3\u00a9", "caf\u00e9"),
        ("salt &amp; pepper", "salt & pepper"),
        ("salt &amp;amp; pepper", "salt & pepper"),
        ("&LT;B&GT;", "<b>"),
        (" \t many \n\n  spaces\u00a0here ", "many spaces here"),
        ("\u201cquoted\u201d", '"quoted"'),
        ("\uff26\uff35\uff2c\uff2c", "full"),
        ("", ""),
    ],
)
def test_texts_are_mended_unescaped_and_lower_cased(text, wanted):
    assert clean(text) == wanted


def test_digits_stand_alone_and_endings_apart(tokens):
    assert words(tokens, "2024") == [f"{digit}</w>" for digit in "2024"]
    assert words(tokens, "kid's") == ["kid</w>", "'s</w>"]
    assert words(tokens, "KID'S!?") == ["kid</w>", "'s</w>", "!?</w>"]


def test_a_special_token_in_a_text_is_one_token(tokens):
    assert tokens.tokenize("a <|endoftext|>") == [320, END]


def test_letters_of_any_language_are_their_bytes(tokens):
    assert len(words(tokens, "\U0001f9ff\u0f00")) >= 2
    for text in TEXTS:
        assert tokens.decode(tokens([text])[0]).replace(" ", "") == clean(text).replace(" ", "")


def test_decoding_leaves_out_specials_and_padding(tokens):
    assert tokens.decode(tokens(["Zebra, standing"])[0]) == "zebra , standing"
    with pytest.raises(UserError, match="no token 49408; there are 49408"):
        tokens.decode([49408])


def test_an_empty_text_and_no_text_are_rows_and_no_rows(tokens):
    assert tokens("")[0, :3].tolist() == [START, END, 0]
    assert tokens([]).shape == (0, 77)


def test_a_text_that_is_too_long_is_refused_or_cut(tokens):
    long = "word " * 76
    assert tokens(["word " * 75])[0, -1] == END
    with pytest.raises(UserError, match=r"text 1, 'word .*\.\.\.', has 78 tokens .* and 77 fit.*"):
        tokens(["short", long])
    cut = tokens(long, truncate=True)[0]
    assert (cut[0], cut[-2], cut[-1]) == (START, tokens.ids["word</w>"], END)
    assert tokens("a b c", context=4, truncate=True).tolist() == [[START, 320, 321, END]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"header\na b c\n", "is no list of merges: it holds 'a b c'"),
        (b"\x1f\x8b damaged", "cannot read the vocabulary"),
        (b"\xff\xfe", "cannot read the vocabulary"),
    ],
)
def test_a_damaged_vocabulary_is_an_error(tmp_path, content, message):
    path = tmp_path / "merges.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        BytePairs(path)


def test_a_missing_vocabulary_says_where_to_get_it(tmp_path):
    with pytest.raises(UserError, match=r"no vocabulary .*bpe_simple_vocab_16e6\.txt\.gz"):
        BytePairs(tmp_path / "nowhere.txt")
    with pytest.raises(UserError, match="has no vocabulary of CLIP"):
        BytePairs(tmp_path)


def test_a_folder_whose_files_do_not_go_together_is_refused(tmp_path, folder):
    (tmp_path / "merges.txt").write_text((folder / "merges.txt").read_text())
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    with pytest.raises(UserError, match=r"vocab\.json lacks \d+ tokens of CLIP's"):
        BytePairs(tmp_path)
    (tmp_path / "vocab.json").write_text("[]")
    with pytest.raises(UserError, match="must map tokens to numbers"):
        BytePairs(tmp_path)

"""Phrases of captions: their masks, their tokens, and their words again."""

import numpy as np
import pytest

from jaxseg.errors import UserError
from jaxseg.text.spans import (
    caption_of,
    encode_captions,
    name_costs,
    pack_names,
    phrase_of,
    phrase_spans,
    positive_map,
    prepare_caption,
    sub_sentences,
)

CLS, SEP, STOP, CAT, DOG, RED = 101, 102, 1012, 4937, 3899, 2417


def masks(*rows):
    n = max(map(len, rows))
    ids = np.array([[*row, *[0] * (n - len(row))] for row in rows])
    mask = np.array([[True] * len(row) + [False] * (n - len(row)) for row in rows])
    return sub_sentences(ids, mask, (CLS, SEP, STOP, 1029))


def test_words_see_their_own_phrase_and_its_full_stop():
    attend, positions, phrases = masks([CLS, RED, CAT, STOP, DOG, STOP, SEP])
    wanted = [
        [1, 0, 0, 0, 0, 0, 0],
        [0, 1, 1, 1, 0, 0, 0],
        [0, 1, 1, 1, 0, 0, 0],
        [0, 1, 1, 1, 0, 0, 0],
        [0, 0, 0, 0, 1, 1, 0],
        [0, 0, 0, 0, 1, 1, 0],
        [0, 0, 0, 0, 0, 0, 1],
    ]
    assert attend[0].astype(int).tolist() == wanted
    assert positions.tolist() == [[0, 0, 1, 2, 0, 1, 0]]
    assert phrases[0].astype(int).tolist() == [[0, 1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0, 0]]


def test_words_without_a_stop_are_a_phrase_only_beside_a_longer_caption():
    attend, positions, phrases = masks([CLS, RED, CAT, SEP])
    np.testing.assert_array_equal(attend[0], np.eye(4, dtype=bool))
    assert positions.tolist() == [[0, 0, 0, 0]]
    assert phrases[0].shape == (0, 4)
    attend, positions, phrases = masks([CLS, RED, CAT, SEP], [CLS, DOG, STOP, DOG, STOP, SEP])
    assert attend[0, 1:4, 1:4].all()
    assert positions[0].tolist() == [0, 0, 1, 2, 0, 0]
    assert phrases[0].astype(int).tolist() == [[0, 1, 1, 0, 0, 0]]


def test_a_caption_with_a_full_stop_is_encoded_alike_in_every_batch(tokenizer):
    caption = prepare_caption("Cat . a red dog")
    alone = encode_captions(tokenizer, [caption])
    n = alone.ids.shape[1]
    for others, pad_to in ([["zebra . " * 9], None], [["x"], 40], [[], 64]):
        beside = encode_captions(tokenizer, [caption, *others], pad_to=pad_to)
        np.testing.assert_array_equal(beside.attend[0, :n, :n], alone.attend[0])
        for name in ("ids", "mask", "positions"):
            np.testing.assert_array_equal(getattr(beside, name)[0, :n], getattr(alone, name)[0])
        padding = beside.attend[0, n:]
        np.testing.assert_array_equal(padding, np.eye(*padding.shape, k=n, dtype=bool))
        assert not beside.mask[0, n:].any()


def test_masks_are_made_before_the_cut(tokenizer):
    captions = encode_captions(tokenizer, ["red red red cat . dog ."], length=4)
    assert captions.ids.tolist() == [[CLS, RED, RED, RED]]
    assert captions.attend[0, 1:, 1:].all()
    assert captions.positions.tolist() == [[0, 0, 1, 2]]


def test_a_caption_that_does_not_fit_is_told_where_asked(tokenizer):
    caption = "a red dog . " * 80
    assert encode_captions(tokenizer, [caption]).ids.shape == (1, 256)
    message = r"caption 'a red dog .*\.\.\.' has 322 tokens and the model reads 256: name fewer"
    with pytest.raises(UserError, match=message):
        encode_captions(tokenizer, ["cat .", caption], strict=True)
    with pytest.raises(UserError, match="pad_to is 4, and a caption has 8 tokens"):
        encode_captions(tokenizer, ["a . b . c ."], pad_to=4)


@pytest.mark.parametrize(
    ("text", "prepared"),
    [("a Cat", "a cat."), (" Dog. ", "dog."), ("", "."), ("who?", "who?."), ("ÉTÉ", "été.")],
)
def test_a_prepared_caption_is_lower_case_and_closed(text, prepared):
    assert prepare_caption(text) == prepared


def test_a_caption_of_names_knows_where_every_word_stands():
    caption, spans = caption_of(["Traffic  Light", "dog", "", "dog"])
    assert caption == "traffic light . dog . dog ."
    words = [[caption[begin:end] for begin, end in found] for found in spans]
    assert words == [["traffic", "light"], ["dog"], [], ["dog"]]
    assert spans[1] != spans[3]
    assert caption_of(["a", "b"], separator=". ", end=".")[0] == "a. b."
    assert caption_of([]) == ("", [])
    assert caption_of(["", " "]) == ("", [[], []])


def test_names_are_packed_in_order_as_many_as_a_caption_holds(tokenizer):
    names = ["hot dog", "cat", "", "traffic light", "dog", "zebra"]
    assert name_costs(tokenizer, names).tolist() == [3, 2, 1, 3, 2, 2]
    names.remove("")
    for length, at_once, wanted in (
        (14, None, [range(5)]),
        (13, None, [range(4), range(4, 5)]),
        (7, None, [range(2), range(2, 4), range(4, 5)]),
        (5, None, [range(1), range(1, 2), range(2, 3), range(3, 4), range(4, 5)]),
        (14, 2, [range(2), range(2, 4), range(4, 5)]),
        (14, 5, [range(5)]),
    ):
        chunks = pack_names(tokenizer, names, length, at_once=at_once)
        assert chunks == wanted
        for chunk in chunks:
            caption, _ = caption_of([names[i] for i in chunk])
            assert tokenizer([caption]).ids.shape[1] <= length


def test_a_name_that_no_caption_holds_is_told(tokenizer):
    with pytest.raises(UserError, match=r"the name 'hot dog' has 3 tokens .* reads 2 at a time"):
        pack_names(tokenizer, ["cat", "hot dog"], 4)
    with pytest.raises(UserError, match="nothing of the class 'B': say it in words"):
        pack_names(tokenizer, ["cat", " "], what=["the class 'A'", "the class 'B'"])


def test_a_dog_is_no_hot_dog(tokenizer):
    caption, spans = caption_of(["hot dog", "dog", "hot"])
    named = positive_map(tokenizer([caption]), 0, spans)
    # [CLS] hot dog . dog . hot . [SEP]
    assert [np.flatnonzero(row).tolist() for row in named] == [[1, 2], [4], [6]]


def test_a_span_that_misses_its_word_by_two_characters_still_finds_it(tokenizer):
    tokens = tokenizer(["a  cat  . unbelievableness"])
    named = positive_map(tokens, 0, [[(1, 8)], [(10, 12)], [(7, 9)], [(1, 2)], [(100, 102)]])
    found = [np.flatnonzero(row).tolist() for row in named]
    assert found == [[2], [4], [3], [], []]
    assert positive_map(tokens, 0, [[(10, 26)]], length=6)[0].tolist() == [False] * 4 + [True] * 2


def test_a_character_of_several_tokens_ends_a_span_with_its_first(tokenizer):
    """As in the original: the letters of a Korean syllable are tokens of their own."""
    tokens = tokenizer(["단어"])
    assert tokens.offsets[0, 1:-1, 0].tolist() == [0, 0, 0, 1, 1]
    named = positive_map(tokens, 0, [[(0, 1)], [(0, 2)]])
    assert [np.flatnonzero(row).tolist() for row in named] == [[1], [1, 2, 3, 4]]


@pytest.mark.parametrize(
    ("caption", "texts"),
    [
        ("Cat . a Red dog?bird", ["Cat", "a Red dog", "bird"]),
        ("dog ... dog . . .", ["dog", "dog"]),
        ("is it? a dog? or. what", ["is it", "a dog", "or", "what"]),
        ("", []),
        (" ?.. ", []),
        ("cat [SEP] dog", ["cat", "dog"]),
        ("東京 . 😀 emoji . Ünïcode .", ["東京", "😀 emoji", "Ünïcode"]),
    ],
)
def test_phrases_are_named_as_the_caption_words_them(caption, texts):
    found = phrase_spans(caption)
    assert [text for *_, text in found] == texts
    assert [caption[begin:end] for begin, end, _ in found] == texts


CAPTIONS = [
    "a cat . a dog .",
    "naïve café . crème brûlée .",
    "東京タワー . Ελλάδα . Việt .",
    "a 😀 smile . 👩‍👩‍👧 . plain .",
    "dog . . . cat .. bird ...",
    "is this a dog? or a cat? a bird",
    "dog . dog . hot dog . dog .",
    "U.S. flag . 3.5 inch disk .",
    "",
    "...",
    "\u200b . cat .",
    "İstanbul . STRASSE . ﬁsh .",
    "x" * 150 + " . y .",
]


@pytest.mark.parametrize("text", [*CAPTIONS, " . ".join(f"name {i}" for i in range(300))])
def test_every_caption_comes_back_as_its_phrases(tokenizer, text):
    caption = prepare_caption(text)
    tokens = tokenizer([caption])
    n = tokens.ids.shape[1]
    _, _, (phrases,) = sub_sentences(tokens.ids, tokens.mask, tokenizer.separators)
    spans = phrase_spans(caption)
    named = positive_map(tokens, 0, [[span[:2]] for span in spans], n)
    np.testing.assert_array_equal(named[named.any(1)], phrases[phrases.any(1)])
    for row, (*_, text) in zip(named, spans, strict=True):
        ids = tokens.ids[0][row]
        if row.any() and 100 not in ids:  # a word that is unknown does not come back
            again = tokenizer([tokenizer.decode(ids)])
            assert again.ids[0, 1:-1].tolist() == ids.tolist(), text
    if n > 256:
        with pytest.raises(UserError, match=f"has {n} tokens"):
            encode_captions(tokenizer, [caption], strict=True)


def words_of(tokenizer, caption, likely, **options):
    (ids,) = tokenizer([caption]).ids
    probabilities = np.zeros(256, np.float32)
    for place, probability in likely.items():
        probabilities[place] = probability
    return phrase_of(tokenizer, ids, probabilities, 0.25, **options)


def test_a_phrase_is_worded_by_the_tokens_above_the_threshold(tokenizer):
    # [CLS] a remote - control . skate ##board ##ers . cat . [SEP]
    caption = "a remote-control . skateboarders . cat ."
    assert words_of(tokenizer, caption, {2: 0.3, 3: 0.3, 4: 0.3}) == "remote - control"
    assert words_of(tokenizer, caption, {1: 0.25, 2: 0.26}) == "remote"
    assert words_of(tokenizer, caption, {0: 0.9, 10: 0.9, 11: 0.9}) == "cat"
    assert words_of(tokenizer, caption, {4: 0.3, 10: 0.4}) == "control cat"
    assert words_of(tokenizer, caption, {0: 0.9}) == ""
    assert words_of(tokenizer, caption, {12: 0.9}) == "[SEP]"


def test_a_combined_phrase_is_cut_to_the_likeliest_tokens_own(tokenizer):
    caption = "a cat . a dog? bird . zebra"
    likely = {2: 0.4, 5: 0.5, 7: 0.3, 9: 0.3}
    assert words_of(tokenizer, caption, likely) == "cat dog bird zebra"
    assert words_of(tokenizer, caption, likely, remove_combined=True) == "dog bird"
    assert words_of(tokenizer, caption, {0: 0.9, 2: 0.4}, remove_combined=True) == ""
    # Cut before its end.
    ids = tokenizer([caption]).ids[0, :-1]
    worded = phrase_of(tokenizer, ids, np.eye(12)[9], 0.25, remove_combined=True)
    assert worded == "zebra"

import pickle

import jax
import numpy as np
import pytest

from jaxseg.data import open_dataset
from jaxseg.data.captions import ask_classes, class_prompts, name_objects
from jaxseg.data.classes import HOLE
from jaxseg.data.dataset import Example
from jaxseg.data.loader import Loader
from jaxseg.data.prompts import UNNAMED, Prompter, Prompts, clean_name
from jaxseg.data.transforms import RandomFlip
from jaxseg.errors import UserError
from tests.data.files import box, two_images
from tests.data.words import prompter, prompts

CLASSES = ("cat", "traffic light", "dog", "hot dog", "stop sign", "bird", "cup")


def example(labels, **fields) -> Example:
    n = len(labels)
    boxes = np.tile(np.asarray([[0, 0, 4, 4]], np.float32), (n, 1))
    settings = {
        "image": np.zeros((8, 8, 3), np.uint8),
        "boxes": boxes + np.arange(n, dtype=np.float32)[:, None] / 10,
        "labels": np.asarray(labels, np.int32),
        "area": np.full(n, 16, np.float32),
        "iscrowd": np.zeros(n, bool),
        "image_id": 1,
        "file_name": "one.png",
    }
    return Example(**settings | fields)


def draw(labels, seed=0, classes=CLASSES, unsure=(), fields=None, **changes):
    rng = np.random.default_rng(seed)
    return prompter(**changes).draw(example(labels, **(fields or {})), classes, rng, unsure)


def names(prompt) -> list[str]:
    return [name.strip() for name in prompt.caption.split(".") if name.strip()]


def test_a_caption_names_what_is_there_and_what_is_not_up_to_the_number_in_a_random_order():
    orders = set()
    for seed in range(20):
        prompt = draw([2, 0, 2], seed, max_labels=5)
        found = names(prompt)
        assert len(found) == 5 == len(set(found))
        assert {"cat", "dog"} <= set(found) <= set(CLASSES)
        assert [found[place] for place in prompt.places] == ["dog", "cat", "dog"]
        orders.add(tuple(found))
    assert len(orders) > 15
    assert draw([2, 0], 3).caption == draw([2, 0], 3).caption


def test_spans_are_of_the_words_of_each_name():
    prompt = draw([1, 3], 1)
    words = [[prompt.caption[b:e] for b, e in span] for span in prompt.spans]
    assert [" ".join(w) for w in words] == names(prompt)
    assert words[prompt.places[0]] == ["traffic", "light"]


def test_tokens_are_those_of_the_objects_own_name_and_of_no_name_like_it():
    asked = prompter()
    one = example([2, 3, 2])  # "dog" is in "hot dog" too
    prompt = asked.draw(one, CLASSES, np.random.default_rng(0))
    kept, tokens = name_objects(one, prompt, asked)
    ids = asked.tokenizer([prompt.caption]).ids[0]
    said = [asked.tokenizer.decode(ids[np.flatnonzero(row)]) for row in tokens]
    assert said == ["dog", "hot dog", "dog"]
    assert kept.labels.tolist() == prompt.places.tolist()
    assert tokens.dtype == bool
    assert tokens.shape == (3, 64)


def test_names_of_present_classes_stay_however_many_they_are():
    assert set(names(draw([0, 1, 2, 3], max_labels=2))) == set(CLASSES[:4])


def test_an_image_without_objects_is_asked_for_absent_names_alone():
    prompt = draw([], max_labels=3)
    assert len(names(prompt)) == 3
    assert prompt.places.shape == (0,)


def test_a_data_set_whose_classes_are_all_there_has_no_negatives():
    assert names(draw([0, 0], classes=("cat",))) == ["cat"]


def test_without_any_name_the_caption_is_a_full_stop():
    assert draw([], classes=("cat",), unsure=[0]).caption == "."


def test_classes_of_crowds_and_holes_are_not_called_absent():
    for seed in range(10):
        prompt = draw([0], seed, classes=(*CLASSES, HOLE), unsure=[2])
        assert set(names(prompt)) == set(CLASSES) - {"dog"}


def test_holes_cost_nothing_and_change_nothing():
    holes = (HOLE,) * 500
    for seed, negatives in enumerate(["fill", "vary"] * 10):
        told = {"max_labels": 4, "negatives": negatives}
        sparse = draw([0], seed, classes=(*CLASSES, *holes), **told)
        assert sparse.caption == draw([0], seed, **told).caption


def test_what_a_caption_has_no_room_for_is_dropped_with_its_objects():
    # Eight tokens: two ends, and two names of three tokens with their stops, or three of two.
    sizes = set()
    for seed in range(10):
        asked, one = prompter(length=8), example([1, 3, 4, 1])
        prompt = asked.draw(one, CLASSES, np.random.default_rng(seed))
        kept, tokens = name_objects(one, prompt, asked)
        assert len(names(prompt)) == 2
        assert (prompt.places == UNNAMED).sum() == 4 - len(kept.labels) > 0
        wanted = one.boxes[prompt.places != UNNAMED]
        np.testing.assert_array_equal(kept.boxes, wanted)
        assert tokens.any(1).all()
        sizes.add(len(kept.labels))
    assert sizes == {2, 3}


def test_negatives_end_where_the_text_does(tokenizer):
    for seed in range(10):
        prompt = draw([1], seed, length=10)
        assert tokenizer([prompt.caption]).counts[0] <= 10
        assert prompt.places.tolist() != [UNNAMED]
        assert len(names(prompt)) >= 2


def test_varied_negatives_are_all_for_half_of_the_images_and_fewer_for_others():
    counts = [len(names(draw([0], seed, negatives="vary"))) for seed in range(200)]
    full = counts.count(len(CLASSES))
    assert 80 < full < 150
    assert set(counts) == set(range(2, len(CLASSES) + 1))


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("Traffic_Light", "traffic light"),
        ("bow_(weapon)", "bow"),
        ("  Stop  sign ", "stop sign"),
        ("(x)", "(x)"),
    ],
)
def test_names_are_tidied(name, clean):
    assert clean_name(name) == clean


def test_names_are_left_alone_on_request():
    assert names(draw([0], classes=("Bow_(weapon)",), clean=False)) == ["bow_(weapon)"]


def test_one_part_is_drawn_of_alternatives():
    drawn = {tuple(names(draw([0], seed, classes=("Cabinet/shelf",)))) for seed in range(20)}
    assert drawn == {("cabinet",), ("shelf",)}


def test_classes_that_share_a_tidied_name_are_never_both_there_and_absent():
    classes = ("bow_(weapon)", "bow_(ribbon)", "cat")
    for seed in range(10):
        prompt = draw([0], seed, classes=classes)
        assert sorted(names(prompt)) == ["bow", "cat"]
        assert names(prompt)[prompt.places[0]] == "bow"
    both = draw([0, 1], classes=classes)
    assert both.places[0] == both.places[1]


PHRASES = {
    "caption": "A man and a man with a dog",
    "names": ("A man", "a man", "a dog"),
    "spans": (((0, 5),), ((10, 15),), ((21, 26),)),
    "exhaustive": False,
}


def test_phrases_are_asked_for_alone_each_once():
    prompt = draw([0, 1, 2], fields=PHRASES)
    assert sorted(names(prompt)) == ["a dog", "a man"]
    assert prompt.places[0] == prompt.places[1] != prompt.places[2]


def test_phrases_keep_all_their_words():
    phrases = ("The  man (left)", "a black_and/or white dog")
    for seed in range(5):
        prompt = draw([0, 1], seed, fields={"names": phrases, "exhaustive": False})
        assert sorted(names(prompt)) == ["a black_and/or white dog", "the man (left)"]


def test_names_of_other_classes_are_tidied_too():
    prompt = draw([0], fields={"names": ("Bow_(weapon)",)})
    assert prompt.caption == "bow ."


def test_captions_without_a_vocabulary_are_refused():
    with pytest.raises(UserError, match="captions need a vocabulary"):
        Prompter(Prompts())


def test_a_sentence_is_taken_as_it_is_with_the_words_that_are_annotated():
    asked, one = prompter(grounding="sentence"), example([1, 2, 0], **PHRASES)
    prompt = asked.draw(one, CLASSES, np.random.default_rng(0))
    assert prompt.caption == "A man and a man with a dog ."
    kept, tokens = name_objects(one, prompt, asked)
    ids = asked.tokenizer([prompt.caption]).ids[0]
    assert [asked.tokenizer.decode(ids[row[: len(ids)]]) for row in tokens] == [
        "a man",
        "a dog",
        "a man",
    ]
    assert np.flatnonzero(tokens[0]).tolist() == [4, 5]
    assert kept.labels.tolist() == [1, 2, 0]


def test_words_of_a_sentence_beyond_its_end_name_nothing():
    asked, one = prompter(grounding="sentence", length=7), example([0, 2], **PHRASES)
    kept, tokens = name_objects(one, asked.draw(one, CLASSES, np.random.default_rng(0)), asked)
    assert kept.labels.tolist() == [0]
    assert np.flatnonzero(tokens[0]).tolist() == [1, 2]


def load(dataset, **changes) -> Loader:
    settings = {
        "batch_size": 4,
        "buckets": ((64, 64),),
        "transform": RandomFlip(),
        "max_targets": 6,
        "seed": 3,
        "prompts": prompts(),
    }
    return Loader(dataset, **settings | changes)


def shapes():
    return open_dataset("synthetic:shapes?count=12&size=48")


def equal(a, b) -> bool:
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: np.array_equal(x, y), a, b)))


def test_a_batch_has_captions_of_one_length_and_targets_have_their_tokens(tokenizer):
    loader = load(shapes())
    for step in range(4):
        batch = loader.batch(step)
        assert batch.captions.ids.shape == (4, 64)
        assert batch.captions.attend.shape == (4, 64, 64)
        assert batch.targets.tokens.shape == (4, 6, 64)
        assert (batch.targets.tokens.any(-1) == batch.targets.mask).all()
        for row, index in enumerate(batch.index):
            caption = tokenizer.decode(batch.captions.ids[row][batch.captions.mask[row]])
            said = [name.strip() for name in caption.split("[SEP]")[0][5:].split(".")]
            for slot in np.flatnonzero(batch.targets.mask[row]):
                own = tokenizer.decode(batch.captions.ids[row][batch.targets.tokens[row, slot]])
                assert said[batch.targets.labels[row, slot]] == own
            true = {loader.dataset.classes.names[k] for k in loader.dataset[int(index)].labels}
            assert {said[k] for k in batch.targets.labels[row][batch.targets.mask[row]]} == true


def test_captions_are_a_pure_function_of_seed_and_step():
    batches = list(load(shapes()).iterate(0, 7))
    for step in (0, 3, 6):
        assert equal(batches[step], load(shapes()).batch(step))
    assert not equal(batches[0].captions, batches[3].captions)
    other = load(shapes(), seed=4).batch(0)
    assert not equal(batches[0].captions, other.captions)


def test_hosts_together_have_the_captions_of_one():
    whole = load(shapes()).batch(2)
    parts = [load(shapes(), process_index=i, process_count=2).batch(2) for i in range(2)]
    assert equal(jax.tree.map(lambda *x: np.concatenate(x), *parts), whole)


def test_worker_processes_make_the_same_captions():
    for step, batch in enumerate(load(shapes(), workers=1).iterate(1, 2), 1):
        assert equal(batch, load(shapes()).batch(step))


def test_captions_change_nothing_else():
    bare, told = load(shapes(), prompts=None).batch(1), load(shapes()).batch(1)
    assert bare.captions is None
    assert bare.targets.tokens is None
    assert equal(bare.images, told.images)
    assert equal(bare.targets.boxes, told.targets.boxes)


def test_objects_that_find_no_room_are_counted_and_said(tmp_path):
    loader = load(shapes(), prompts=prompts(length=6))
    with pytest.warns(UserWarning, match=r"shapes-.* has no room for the names of"):
        batch = loader.batch(0)
    assert loader.unnamed > 0
    assert (batch.targets.tokens.any(-1) == batch.targets.mask).all()
    plain = load(shapes(), prompts=None).batch(0)
    assert plain.targets.mask.sum() == batch.targets.mask.sum() + loader.unnamed


def test_rows_without_an_image_have_a_caption_of_nothing(tmp_path):
    dataset = open_dataset(two_images(tmp_path, annotations=[box(1, 7, 5, [1, 2, 3, 2])]))
    batch = load(dataset, shuffle=False, repeat=False, prompts=prompts(max_labels=1)).batch(0)
    assert batch.mask.tolist() == [True, True, False, False]
    assert batch.captions.mask.sum(1).tolist() == [4, 4, 3, 3]
    assert batch.targets.mask.sum(1).tolist() == [1, 0, 0, 0]


def test_evaluation_asks_for_all_classes_in_their_order(tokenizer):
    classes = open_dataset("synthetic:shapes", numbering="raw").classes
    found, ids = ask_classes(classes, tokenizer, 64)
    assert ids == (1, 2, 3, 4, 5, 6)
    assert found.tokens.shape == (1, 6, 64)
    row = found.captions.ids[0]
    said = [tokenizer.decode(row[tokens]) for tokens in found.tokens[0]]
    assert said == ["circle", "square", "triangle", "star", "cross", "ring"]


@pytest.mark.parametrize(("length", "at_once", "captions"), [(64, 3, 3), (14, None, 2)])
def test_classes_too_many_for_a_caption_are_asked_for_in_several(
    length, at_once, captions, tokenizer
):
    found = class_prompts(CLASSES, tokenizer, length, at_once=at_once)
    assert found.tokens.shape == (captions, len(CLASSES), length)
    assert (found.tokens.any(-1).sum(0) == 1).all()
    for name, tokens in zip(CLASSES, found.tokens.swapaxes(0, 1), strict=True):
        caption = int(tokens.any(-1).argmax())
        assert tokenizer.decode(found.captions.ids[caption][tokens[caption]]) == name


def test_a_class_that_no_caption_holds_is_named(tokenizer):
    with pytest.raises(UserError, match=r"the class 'Stop_Sign' has 3 tokens .* reads 2 at"):
        class_prompts(["cat", "Stop_Sign"], tokenizer, 4)
    with pytest.raises(UserError, match="nothing of the class ' ': say it in words"):
        class_prompts(["cat", " "], tokenizer, 64)
    with pytest.raises(UserError, match="no classes"):
        class_prompts([], tokenizer, 64)


def test_a_prompter_can_be_sent_to_another_process():
    sent = pickle.loads(pickle.dumps(prompter()))
    one, rng = example([0, 2]), np.random.default_rng
    assert sent.draw(one, CLASSES, rng(1)).caption == draw([0, 2], 1).caption

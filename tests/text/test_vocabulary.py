"""Vocabularies: from a file, a folder or an id, or a clear error."""

import shutil

import pytest
from huggingface_hub import constants
from tokenizers import Tokenizer, models

from jaxseg.errors import UserError
from jaxseg.text.vocabulary import open_vocabulary
from jaxseg.vocabularies import load_tokenizer, locate_vocabulary
from tests.vocabulary import FOLDER, package_file

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", "cat", "##s"]


@pytest.fixture
def vocabulary(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def hub_folder(tmp_path, monkeypatch):
    """The snapshot of lab/bert in a cache of its own, without the network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    repository, commit = tmp_path / "hub" / "models--lab--bert", "a" * 40
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    return snapshot


def test_a_file_and_its_folder_are_the_same_vocabulary(vocabulary):
    for source in (vocabulary, vocabulary.parent, str(vocabulary)):
        tokenizer = open_vocabulary(source)
        assert tokenizer.length == len(PIECES)
        assert tokenizer(["Cats."]).ids.tolist() == [[2, 7, 8, 5, 3]]


def test_a_folders_tokenizer_json_is_read_first(tmp_path, vocabulary, tokenizer):
    shutil.copy(package_file(f"{FOLDER}/tokenizer.json"), tmp_path)
    assert open_vocabulary(tmp_path).length == tokenizer.length


def test_an_id_is_read_from_the_hubs_cache(hub_folder, vocabulary):
    shutil.copy(vocabulary, hub_folder)
    assert load_tokenizer("lab/bert").length == len(PIECES)
    assert load_tokenizer(vocabulary).length == len(PIECES)
    with pytest.raises(UserError, match="lab/other is not in the local cache and offline mode"):
        load_tokenizer("lab/other")


def test_an_id_is_the_file_in_its_snapshot(hub_folder, vocabulary):
    shutil.copy(vocabulary, hub_folder)
    assert locate_vocabulary("lab/bert") == hub_folder / "vocab.txt"
    assert locate_vocabulary(vocabulary.parent) == vocabulary


def test_a_repository_without_a_vocabulary_is_told(hub_folder):
    with pytest.raises(UserError, match=r"holds neither tokenizer\.json nor vocab\.txt; give a"):
        load_tokenizer("lab/bert")


@pytest.mark.parametrize("name", ["weights.pth", "model.safetensors"])
def test_weights_hold_no_vocabulary(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x80")
    for read in (open_vocabulary, load_tokenizer):
        with pytest.raises(UserError, match="official checkpoints hold no vocabulary: give a"):
            read(tmp_path / name)


def test_a_path_that_is_not_there_is_told(tmp_path):
    for read in (open_vocabulary, load_tokenizer):
        with pytest.raises(UserError, match=r"no vocabulary .*vocab\.txt; give a vocab\.txt, a"):
            read(tmp_path / "vocab.txt")


def test_a_file_of_something_else_is_told(tmp_path):
    (tmp_path / "words.txt").write_text("cat\ndog\n")
    with pytest.raises(UserError, match=r"it has no \[PAD\], \[UNK\], \[CLS\], \[SEP\], \., \?"):
        open_vocabulary(tmp_path / "words.txt")
    (tmp_path / "noise").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot read the vocabulary"):
        open_vocabulary(tmp_path / "noise")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="cannot read the tokeniser"):
        open_vocabulary(tmp_path)


def test_another_kind_of_tokeniser_is_told(tmp_path):
    Tokenizer(models.BPE()).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match="of the kind BPE; BERT reads WordPiece"):
        open_vocabulary(tmp_path)

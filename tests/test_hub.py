"""Hugging Face ids: from the cache when offline, by revision, converted once."""

import dataclasses
import json
import os
import shutil
import traceback

import pytest
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors import SafetensorError

from jaxseg import checkpoints, hub, native
from jaxseg.checkpoints import ImageConfig, from_pretrained
from jaxseg.data.classes import Classes
from jaxseg.errors import UserError
from jaxseg.params import flatten
from jaxseg_convert_torch.sources import write_huggingface
from tests.small_detr import FIELDS, assert_same, drawn, small

COMMITS = {"main": "a" * 40, "v1": "b" * 40}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A hub cache with two revisions of one repository, and no way to the network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("JAXSEG_CACHE", str(tmp_path / "jaxseg"))
    repository = tmp_path / "hub" / "models--lab--small-detr"
    (repository / "refs").mkdir(parents=True)
    (repository / "snapshots").mkdir()
    for seed, (name, commit) in enumerate(COMMITS.items()):
        (repository / "refs" / name).write_text(commit)
        write_huggingface(pretrained(seed), repository / "snapshots" / commit)
    return tmp_path


def pretrained(seed):
    names = Classes(("a", "b", "c"), (0, 1, 2))
    return checkpoints.Pretrained(
        small(), drawn(small(), seed), names, ImageConfig(), "detr.r50", FIELDS
    )


def without_ids(cache):
    """The config says less, so that something has to be assumed."""
    path = cache / "hub/models--lab--small-detr/snapshots" / COMMITS["main"] / "config.json"
    config = json.loads(path.read_text())
    del config["category_ids"]
    path.write_text(json.dumps(config))


def test_an_id_is_loaded_offline_at_its_revision(cache):
    for seed, name in enumerate(COMMITS):
        loaded = from_pretrained("lab/small-detr", revision=name)
        assert_same(flatten(loaded.params), flatten(drawn(small(), seed)))
    assert_same(flatten(from_pretrained("lab/small-detr").params), flatten(drawn(small(), seed=0)))


def test_a_commit_is_converted_once(cache, monkeypatch):
    first = from_pretrained("lab/small-detr")
    folder = hub.converted_folder("lab/small-detr", COMMITS["main"])
    assert json.loads((folder / "config.json").read_text())["format"] == "jaxseg"

    def fail(*_):
        raise AssertionError("converted again")

    monkeypatch.setattr("jaxseg_convert_torch.sources.open_foreign", fail)
    again = from_pretrained("lab/small-detr")
    assert_same(flatten(again.params), flatten(first.params))
    assert again.origin == first.origin


def test_what_is_not_in_the_cache_is_a_clear_error_offline(cache):
    with pytest.raises(UserError, match="lab/other is not in the local cache and offline mode"):
        from_pretrained("lab/other")
    with pytest.raises(UserError, match=r"lab/small-detr at revision v9 is not in the local"):
        from_pretrained("lab/small-detr", revision="v9")


def test_what_cannot_be_fetched_is_told_without_the_hubs_own_traceback(cache, monkeypatch):
    def unreachable(*_, **options):
        try:
            raise OSError("no such host")
        except OSError as error:
            raise LocalEntryNotFoundError("not found") from error

    monkeypatch.setattr(hub, "snapshot_download", unreachable)
    with pytest.raises(UserError, match="not in the local cache") as caught:
        from_pretrained("lab/other")
    said = "".join(traceback.format_exception(caught.value))
    assert said.count("Traceback") == 1
    assert "no such host" not in said


def test_local_files_only_needs_no_environment(cache, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    loaded = from_pretrained("lab/small-detr", local_files_only=True)
    assert loaded.kwargs["num_classes"] == 3
    with pytest.raises(UserError, match="offline mode"):
        from_pretrained("lab/other", local_files_only=True)


def test_a_mistyped_path_is_told_as_one_offline(cache):
    with pytest.raises(UserError, match="there is no local folder or file weights/mine"):
        from_pretrained("weights/mine")


def test_two_processes_may_convert_one_id(cache, monkeypatch):
    folder = hub.converted_folder("lab/small-detr", COMMITS["main"])
    convert, first = checkpoints._open_local, []

    def be_second(*where):
        source = convert(*where)
        if not first:
            first.append(None)
            checkpoints.save_source(source, folder, probe=False)
        return source

    monkeypatch.setattr(checkpoints, "_open_local", be_second)
    loaded = from_pretrained("lab/small-detr")
    assert_same(flatten(loaded.params), flatten(drawn(small(), seed=0)))
    assert first
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_race_lost_at_the_last_moment_is_no_error(cache, monkeypatch):
    folder = hub.converted_folder("lab/small-detr", COMMITS["main"])
    replace, first = os.replace, []

    def replace_second(source, destination):
        if not first and destination == folder:
            first.append(None)
            replace(shutil.copytree(source, cache / "other"), destination)
        replace(source, destination)

    monkeypatch.setattr(native.os, "replace", replace_second)
    loaded = from_pretrained("lab/small-detr")
    assert_same(flatten(loaded.params), flatten(drawn(small(), seed=0)))
    assert first
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_what_was_assumed_of_an_id_is_said(cache, caplog):
    without_ids(cache)
    from_pretrained("lab/small-detr")
    assert "assumed that labels are category ids" in caplog.text


def test_what_was_assumed_and_dropped_is_told_each_time(cache, monkeypatch):
    without_ids(cache)
    told, convert = [], checkpoints._open_local

    def dropping(*where):
        return dataclasses.replace(convert(*where), dropped=["bn1.num_batches_tracked"])

    monkeypatch.setattr(checkpoints, "_open_local", dropping)
    first = checkpoints.open_source("lab/small-detr")
    monkeypatch.setattr(checkpoints, "_open_local", None)  # from here on the kept conversion
    again = checkpoints.open_source("lab/small-detr")
    assert again.notes == first.notes != []
    assert again.dropped == first.dropped == ["bn1.num_batches_tracked"]
    from_pretrained("lab/small-detr", say=told.append)
    assert any("assumed that labels are category ids" in line for line in told)


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (SafetensorError("I/O error: disk quota exceeded"), "disk quota exceeded"),
        (None, "Not a directory"),
    ],
)
def test_where_a_conversion_cannot_be_kept_the_id_loads_all_the_same(
    cache, monkeypatch, error, why
):
    def full(*_, **options):
        raise error

    if error is None:
        (cache / "file").write_text("")
        monkeypatch.setenv("JAXSEG_CACHE", str(cache / "file"))
    else:
        monkeypatch.setattr(native, "save_file", full)
    told = []
    loaded = from_pretrained("lab/small-detr", say=told.append)
    assert_same(flatten(loaded.params), flatten(drawn(small(), seed=0)))
    (note,) = told
    assert "lab/small-detr: converted, but it will be converted again next time: cannot" in note
    assert why in note
    assert not list(cache.glob("jaxseg/converted/*/*/*"))

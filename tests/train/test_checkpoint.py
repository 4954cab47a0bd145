import math
import shutil

import jax
import numpy as np
import pytest

from jaxseg.errors import UserError
from jaxseg.parallel.mesh import MeshShape
from jaxseg.train import checkpoint, together
from jaxseg.train.checkpoint import Checkpoints
from jaxseg.train.state import abstract_state
from tests.train.small import Glance, Parts
from tests.train.worker import SHARDING


@pytest.fixture(scope="module")
def parts():
    return Parts(ema=0.9)


@pytest.fixture(autouse=True)
def _hurries(monkeypatch):
    monkeypatch.setattr(together, "PAUSES", (0.0, 0.0))


@pytest.fixture
def checkpoints(tmp_path):
    opened = Checkpoints(tmp_path / "checkpoints")
    yield opened
    opened.close()


def at_step(parts, step):
    state = parts.state()
    params = jax.tree.map(lambda x: x + step, state.params)
    return state.replace(step=state.step + step, params=params)


def abstract(parts):
    mesh = MeshShape().build(jax.devices()[:1])
    return abstract_state(parts.init_params, parts.make_state, SHARDING, mesh)


def files_of(checkpoints, step):
    folder = checkpoints.directory / "latest" / str(step)
    return [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size > 0]


def test_a_state_comes_back_as_it_was(parts, checkpoints):
    saved = at_step(parts, 3)
    checkpoints.save(3, saved)
    restored = checkpoints.restore(abstract(parts))
    jax.tree.map(np.testing.assert_array_equal, restored, saved)


def test_nothing_saved_restores_nothing(parts, checkpoints):
    assert checkpoints.restore(abstract(parts)) is None


def test_the_last_two_and_every_so_manieth_are_kept(parts, tmp_path):
    checkpoints = Checkpoints(tmp_path, keep_every=4)
    state = parts.state()
    for step in range(2, 13, 2):
        checkpoints.save(step, state)
    checkpoints.close()
    kept = sorted(int(path.name) for path in (tmp_path / "latest").iterdir())
    assert kept == [4, 8, 10, 12]


@pytest.mark.parametrize("damage", ["truncated", "emptied", "half of it missing"])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_taken(parts, checkpoints, damage):
    for step in (2, 4):
        checkpoints.save(step, at_step(parts, step))
    for path in files_of(checkpoints, 4):
        if damage == "truncated":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        elif damage == "emptied":
            path.write_bytes(b"")
    if damage == "half of it missing":
        shutil.rmtree(checkpoints.directory / "latest" / "4" / "state")
    reopened = Checkpoints(checkpoints.directory)
    with pytest.warns(UserWarning, match="checkpoint latest/4 .* cannot be read"):
        restored = reopened.restore(abstract(parts))
    assert int(restored.step) == 2
    assert (checkpoints.directory / "unreadable" / "4").is_dir()
    reopened.save(4, at_step(parts, 4))  # the step is free again
    assert int(reopened.restore(abstract(parts)).step) == 4
    reopened.close()


def test_a_save_that_was_killed_is_no_checkpoint(parts, checkpoints):
    checkpoints.save(2, at_step(parts, 2))
    latest = checkpoints.directory / "latest"
    shutil.copytree(latest / "2", latest / "4.orbax-checkpoint-tmp-123")
    reopened = Checkpoints(checkpoints.directory)
    assert reopened.latest_step == 2
    assert int(reopened.restore(abstract(parts)).step) == 2
    reopened.close()


def test_where_no_checkpoint_can_be_read_all_stay_in_place(parts, checkpoints):
    checkpoints.save(2, at_step(parts, 2))
    for path in files_of(checkpoints, 2):
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"no checkpoint in .* can be read"):
        checkpoints.restore(abstract(parts))
    assert (checkpoints.directory / "latest" / "2").is_dir()


def test_a_checkpoint_of_another_model_says_what_differs(parts, checkpoints):
    checkpoints.save(2, at_step(parts, 2))
    with pytest.raises(UserError, match=r"class_embed/\w+ is \(.*4.*\), not \(.*8.*\)"):
        checkpoints.restore(abstract(Parts(Glance(num_classes=7), ema=0.9)))
    with pytest.raises(UserError, match=r"ema/.* is not wanted"):
        checkpoints.restore(abstract(Parts(ema=None)))


def test_the_best_is_the_highest_and_of_equals_the_newest(parts, checkpoints):
    kept = []
    values = {1: math.nan, 2: 0.1, 3: 0.3, 4: 0.2, 5: 0.3}
    for step, value in values.items():
        if checkpoints.save_best(step, at_step(parts, step), value):
            kept.append(step)
    assert kept == [2, 3, 5]
    assert [path.name for path in (checkpoints.directory / "best").iterdir()] == ["5"]
    reopened = Checkpoints(checkpoints.directory)
    assert reopened.best_value() == 0.3
    assert int(reopened.restore_best(abstract(parts)).step) == 5
    reopened.close()


def test_a_read_that_fails_once_moves_nothing(parts, checkpoints, monkeypatch):
    checkpoints.save(2, at_step(parts, 2))
    checkpoints.save(4, at_step(parts, 4))
    plain, failures = checkpoint._restore, [OSError("stale file handle"), OSError("timed out")]

    def restore(*arguments):
        if failures:
            raise failures.pop()
        return plain(*arguments)

    monkeypatch.setattr(checkpoint, "_restore", restore)
    assert int(checkpoints.restore(abstract(parts)).step) == 4
    assert not (checkpoints.directory / "unreadable").exists()


def test_where_another_process_cannot_read_a_step_this_one_leaves_it_too(
    parts, checkpoints, monkeypatch
):
    checkpoints.save(2, at_step(parts, 2))
    checkpoints.save(4, at_step(parts, 4))
    others = iter([False, False, False, True])
    monkeypatch.setattr(together, "agree", lambda fine: fine and next(others))
    with pytest.warns(UserWarning, match="latest/4 .*another process could not read it"):
        assert int(checkpoints.restore(abstract(parts)).step) == 2


@pytest.mark.parametrize("part", ["note", "state"])
def test_a_damaged_best_is_set_aside_and_the_run_goes_on(parts, checkpoints, part):
    checkpoints.save_best(2, at_step(parts, 2), 0.9)
    for path in (checkpoints.directory / "best" / "2" / part).rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    reopened = Checkpoints(checkpoints.directory)
    with pytest.warns(UserWarning, match="checkpoint best/2 .* cannot be read"):
        lost = reopened.best_value() if part == "note" else reopened.restore_best(abstract(parts))
    assert lost is None
    assert (checkpoints.directory / "unreadable" / "best-2").is_dir()
    assert reopened.save_best(4, at_step(parts, 4), 0.1)
    assert int(reopened.restore_best(abstract(parts)).step) == 4
    reopened.close()


def test_a_best_that_is_saved_anew_is_never_lost(parts, checkpoints, monkeypatch):
    checkpoints.save_best(2, at_step(parts, 2), 0.5)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_save", lambda *arguments: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception):
            checkpoints.save_best(2, at_step(parts, 2), 0.5)
    reopened = Checkpoints(checkpoints.directory)
    assert (reopened.best_step, reopened.best_value()) == (2, 0.5)
    assert reopened.save_best(2, at_step(parts, 2), 0.6)
    assert reopened.best_value() == 0.6
    assert not (checkpoints.directory / "replaced").exists()
    reopened.close()

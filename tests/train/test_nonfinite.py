import numpy as np
import pytest

from jaxseg.train import nonfinite
from jaxseg.train.step import Report


@pytest.mark.parametrize("others", [[2, 3], [0, 1]], ids=["other rows", "the same rows"])
def test_the_images_of_all_processes_are_named(monkeypatch, others):
    def allgather(index, tiled):
        assert tiled
        return np.concatenate([index, others])

    monkeypatch.setattr(nonfinite.jax, "process_count", lambda: 2)
    monkeypatch.setattr(nonfinite.multihost_utils, "process_allgather", allgather)
    report = Report({"loss": np.nan}, np.asarray(False), np.asarray([False]))
    error = nonfinite.nonfinite_error(
        1, report, np.asarray([0, 1]), trainable=["w"], image_ids=list("abcd"), saved=None
    )
    wanted = ", ".join(repr("abcd"[i]) for i in dict.fromkeys([0, 1, *others]))
    assert f"Images of the batch: {wanted}. No checkpoint" in str(error)

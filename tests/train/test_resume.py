import json
import random
import signal

import numpy as np
import pytest

from tests.train.processes import start_worker

UNTIMED = "images_per_second"


def run(workdir, *arguments, status=0):
    process = start_worker(workdir, *arguments)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == status, output
    return output


def losses(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(x).items() if k != UNTIMED} for x in lines]


def assert_same_run(one, other):
    assert losses(one) == losses(other)
    assert [line["step"] for line in losses(one)] == list(range(1, 25))
    a, b = np.load(one / "final.npz"), np.load(other / "final.npz")
    assert a.files == b.files
    for name in a.files:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    run(workdir)
    return workdir


def test_a_run_killed_at_a_random_step_resumes_bit_for_bit(uninterrupted, tmp_path):
    chance = random.SystemRandom()
    step, delay = chance.randrange(2, 23), chance.uniform(0, 0.05)
    run(tmp_path, "--kill", "SIGKILL", step, delay, status=-signal.SIGKILL)
    assert not (tmp_path / "final.npz").exists()
    run(tmp_path)
    assert_same_run(uninterrupted, tmp_path)


def test_sigterm_saves_and_exits_cleanly_and_the_run_goes_on_bit_for_bit(uninterrupted, tmp_path):
    output = run(tmp_path, "--kill", "SIGTERM", 9, 0)
    assert "interrupted: SIGTERM" in output
    stopped = int(output.split("at ")[-1])
    assert stopped in range(9, 14)
    # The step it stopped at is on disk, though it is no multiple of the saving interval.
    assert (tmp_path / "checkpoints" / "latest" / str(stopped)).is_dir()
    run(tmp_path)
    assert_same_run(uninterrupted, tmp_path)

import json
import socket

import numpy as np
import pytest

from tests.train.processes import start_worker


def free_port():
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        return listening.getsockname()[1]


def run_two(workdir, *arguments_of_the_first):
    port = free_port()
    both = [
        start_worker(workdir, "--process", i, port, *more, devices=2)
        for i, more in enumerate((arguments_of_the_first, ()))
    ]
    said = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], "\n".join(said)
    return said


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


# Sums over the batch in another order, in float32: measured are 3e-7 after all 24 steps.
ROUNDING = 3e-6


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    process = start_worker(one, devices=4)
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said
    run_two(two)
    return one, two


def test_two_processes_train_as_one_does(folders):
    one, two = folders
    for a, b in zip(lines(one), lines(two), strict=True):
        assert a.keys() == b.keys()
        for name in a.keys() - {"images_per_second"}:
            np.testing.assert_allclose(b[name], a[name], rtol=ROUNDING, atol=1e-6, err_msg=name)


def test_what_two_processes_saved_one_resumes(folders):
    _, two = folders
    process = start_worker(two, devices=1)
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said
    assert "at 24" in said


@pytest.mark.parametrize(("number", "word"), [("SIGTERM", "preemption"), ("SIGINT", "SIGINT")])
def test_a_signal_to_one_process_stops_both_with_everything_saved(tmp_path, number, word):
    said = run_two(tmp_path, "--kill", number, 5, 0)
    ends = [
        text.split(f"interrupted: {why} at ")[1].split()[0]
        for text, why in zip(said, (word, "preemption"), strict=True)
    ]
    assert ends[0] == ends[1]
    assert (tmp_path / "checkpoints" / "latest" / ends[0]).is_dir()

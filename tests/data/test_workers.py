import multiprocessing
import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.data.test_loader import assert_equal, make

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_workers_outlive_the_signals_that_stop_a_run(number):
    with closing(make(workers=1).iterate(0, 12)) as batches:
        next(batches)
        (worker,) = multiprocessing.active_children()
        os.kill(worker.pid, number)
        got = [next(batches) for _ in range(8)]  # more than it had loaded ahead
    assert_equal(got[-1], make().batch(8))
    assert not worker.is_alive()


def test_an_array_in_shared_memory_has_no_name_that_could_be_left_behind():
    with closing(make(workers=1).iterate(0, 2)) as batches:
        pixels = next(batches).images.pixels
        assert not os.path.exists(f"/dev/shm/{pixels.shm.name.lstrip('/')}")
        before = pixels.copy()
    assert (pixels == before).all()


STOPPED_NEAR_ITS_END = """
import time
from contextlib import closing
from tests.data.test_loader import make

if __name__ == "__main__":
    with closing(make(workers=2).iterate(0, 8)) as batches:
        for _ in range(5):
            next(batches)
        time.sleep(2)  # the workers have made their last batches by now
"""


def test_a_program_that_stops_when_its_workers_have_ended_leaves_nothing_behind(tmp_path):
    """Python's own watchman would say at the end what was left in shared memory."""
    script = tmp_path / "stopped.py"
    script.write_text(STOPPED_NEAR_ITS_END)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stderr) == (0, "")

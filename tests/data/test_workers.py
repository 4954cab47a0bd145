import multiprocessing
import os
import signal
from contextlib import closing

import pytest

from tests.data.test_loader import assert_equal, make


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

"""Grain's worker processes: they outlive the signals that stop a run, and leave nothing behind."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import parent_process

import jax

SIGNALS = (signal.SIGTERM, signal.SIGINT)


def in_workers(stream, count: int):
    """A grain stream whose elements `count` processes make."""
    import grain

    _parse_no_flags()
    options = grain.MultiprocessingOptions(num_workers=count, per_worker_buffer_size=2)
    return stream.mp_prefetch(options, worker_init_fn=_begin)


def elements(stream) -> Iterator:
    """The elements of a grain stream; its threads and processes end with the generator."""
    with _deaf():
        iterator = iter(stream)
    try:
        # Workers start now, and from their birth they are as deaf as we are.
        with _deaf():
            element = next(iterator, None)
        while element is not None:
            yield _unnamed(element)
            element = next(iterator, None)
    finally:
        iterator.close()
        _settle()


def _settle() -> None:
    """Wait until the shared memory of what was loaded ahead has been given back.

    Grain leaves that to a thread, of which the end of the program would cut off the last part.
    """
    from grain.multiprocessing import SharedMemoryArray

    pool = getattr(SharedMemoryArray, "_del_thread_pool", None)
    if pool is not None:
        with suppress(ValueError):  # the program is at its end already
            pool.apply(int)  # it has one thread, which works in order


def _begin(index: int, count: int) -> None:
    """What a worker does first.

    Slurm, systemd and a terminal signal every process of a job; the run needs its workers until
    it has saved, and ends them itself. Should it be killed, they must end without it.
    """
    del index, count
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent_process().join()
    os._exit(1)


@contextmanager
def _deaf():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _unnamed(element):
    """Arrays in shared memory lose its name: else it would outlive whoever still holds them."""
    for leaf in jax.tree.leaves(element):
        if getattr(leaf, "_unlink_on_del", False):
            leaf.shm.unlink()
            leaf._unlink_on_del = False
    return element


def _parse_no_flags() -> None:
    # grain reads absl flags when it starts processes, and absl wants them parsed by then; a
    # program that is no absl app never does.
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()

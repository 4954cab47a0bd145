"""Two things timed in turn, so that what else the machine does befalls both."""

import time
from collections.abc import Callable


def report(name: str, run_ours: Callable, run_theirs: Callable, repeats: int) -> float:
    """Print and return the ratio of the best times, after a first run of each."""
    times: dict[Callable, list[float]] = {run_ours: [], run_theirs: []}
    for run in times:
        run()
    for _ in range(repeats):
        for run, taken in times.items():
            start = time.perf_counter()
            run()
            taken.append(time.perf_counter() - start)
    ours, theirs = min(times[run_ours]), min(times[run_theirs])
    print(f"{name}: ratio {theirs / ours:.2f} (PyTorch {theirs:.2f} s, ours {ours:.2f} s)")
    return theirs / ours

"""What a person watches while a run goes on: a bar on a terminal, lines in a log file."""

import sys
import time
from contextlib import contextmanager

from tqdm import tqdm


class Progress:
    """Loss, images per second and the time left.

    Args:
      total: steps of the run; it begins at `start`.
      batch_size: images of a step.
      line_every: steps between two lines where stderr is not a terminal.
      enabled: only one process shows anything.
    """

    def __init__(self, total: int, start: int, batch_size: int, line_every: int, enabled=True):
        terminal = sys.stderr.isatty()
        self._enabled, self._terminal, self._line_every = enabled, terminal, line_every
        self._total, self._done, self._batch_size = total, start, batch_size
        self._busy, self._timed, self._since = 0.0, 0, time.monotonic()
        self._bar = tqdm(
            total=total,
            initial=start,
            unit="step",
            dynamic_ncols=True,
            disable=not (enabled and terminal),
            bar_format="{desc}{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt}{postfix}",
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_) -> None:
        self._bar.close()

    @contextmanager
    def paused(self):
        """Time spent within (compiling, evaluating, saving) is no part of the speed."""
        self._busy += time.monotonic() - self._since
        try:
            yield
        finally:
            self._since = time.monotonic()

    def advance(self) -> None:
        """One step has ended."""
        now = time.monotonic()
        self._busy, self._since = self._busy + now - self._since, now
        self._timed += 1
        self._done += 1
        self._bar.update()
        # About the last hundred steps count.
        if self._timed > 100:
            self._busy, self._timed = self._busy / 2, self._timed / 2

    @property
    def images_per_second(self) -> float:
        """Of the steps alone, by this process's clock; all processes' images count."""
        return self._timed * self._batch_size / self._busy if self._busy > 0 else 0.0

    def show(self, loss: float) -> None:
        """Refresh the bar, or write the line that is due."""
        rate = self.images_per_second
        left = (self._total - self._done) * self._batch_size / rate if rate else 0.0
        text = f"loss {loss:.4f}, {rate:.1f} images/s, {tqdm.format_interval(left)} left"
        self._bar.set_postfix_str(text)
        last = self._done == self._total
        if not self._terminal and (self._done % self._line_every == 0 or last):
            self.say(f"step {self._done}/{self._total}: {text}")

    def say(self, text: str) -> None:
        """Write a line of its own, above the bar."""
        if self._enabled:
            tqdm.write(text, file=sys.stderr)
            sys.stderr.flush()

"""SIGTERM and SIGINT as a request to save and stop at the end of the step."""

import signal
import threading

import jax

from jaxseg.data.workers import SIGNALS


class Stopped(Exception):
    """The run is asked to stop; `reason` is the signal's name or "preemption"."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


class Interrupt:
    """While entered, the first signal sets `requested`; a second SIGINT interrupts at once.

    With several processes nothing is installed: one of them must not stop alone, and JAX's
    own handler tells all of them (`Checkpoints.reached_preemption`). Outside the main thread
    Python allows no handlers.
    """

    def __init__(self):
        self.requested: str | None = None
        self._previous = {}

    def __enter__(self) -> "Interrupt":
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number, frame) -> None:
        del frame
        if self.requested is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = signal.Signals(number).name

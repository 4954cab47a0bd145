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
    """While entered, the first signal asks to stop; a second SIGINT interrupts at once.

    With several processes none may stop alone: JAX's own handler of SIGTERM tells all of them
    (`Checkpoints.reached_preemption`), and SIGINT is passed on to it. Outside the main thread
    Python allows no handlers.

    Attributes:
      received: the name of the first signal that this process got.
    """

    def __init__(self):
        self.received: str | None = None
        self._alone = jax.process_count() == 1
        self._previous = {}

    @property
    def requested(self) -> str | None:
        """The signal on which this process may stop by itself."""
        return self.received if self._alone else None

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in self._own()}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _own(self) -> tuple[signal.Signals, ...]:
        if self._alone:
            return SIGNALS
        # Without JAX's handler a SIGTERM would end this process at once.
        return (signal.SIGINT,) if jax.config.jax_enable_preemption_service else ()

    def _note(self, number, frame) -> None:
        del frame
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number).name
        if not self._alone:
            signal.raise_signal(signal.SIGTERM)

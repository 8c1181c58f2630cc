"""Requests to stop: a signal sets a flag, and the loop saves before it ends."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

# what a terminal, a scheduler and a cluster send; Windows has no SIGUSR1
_NAMES = ("SIGINT", "SIGTERM", "SIGUSR1")
SIGNALS = tuple(signal.Signals[name] for name in _NAMES if name in signal.Signals.__members__)


class StopRequest:
    """Turns SIGINT (Ctrl-C), SIGTERM and SIGUSR1 into a flag, as a context manager.

    A second SIGINT raises KeyboardInterrupt at once. A handler that was there before is called as
    well, and put back at the end. A signal that this process ignores stays ignored. Python allows
    handlers in the main thread alone: in another thread, nothing is ever requested.

    A scheduler may kill without a warning: what a run must not lose is in its snapshots.

    Attributes:
        signal: the first signal that came, or None.

    Example:
        ```python
        with StopRequest() as stop:
            for step in range(1000):
                if stop.requested:
                    break
        sys.exit(stop.exit_code)
        ```
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._interrupts = 0
        self._previous: dict[signal.Signals, Any] = {}
        self._process = os.getpid()

    @property
    def requested(self) -> bool:
        """Whether a signal came."""
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """The exit code of a process that was stopped: 128 plus the signal's number; else 0."""
        return 0 if self.signal is None else 128 + self.signal

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                previous = signal.getsignal(number)
                # None: a handler of another language, which Python could not put back
                if previous not in (signal.SIG_IGN, None):
                    self._previous[number] = previous
                    signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)
        self._previous.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            self._handle_in_child(signal.Signals(number))
            return
        if self.signal is None:
            self.signal = signal.Signals(number)
        self._interrupts += number == signal.SIGINT
        previous = self._previous[signal.Signals(number)]
        if callable(previous) and previous is not signal.default_int_handler:
            previous(number, frame)
        if self._interrupts > 1:
            raise KeyboardInterrupt

    def _handle_in_child(self, number: signal.Signals) -> None:
        """In a forked process that inherited the handler: it must end when its parent says so."""
        if number != signal.SIGINT:  # a terminal sends this to all; the parent decides
            signal.signal(number, self._previous[number])
            os.kill(os.getpid(), number)

"""Signals that end a command: in order where one is sent, at once where another follows."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from percep.runs.engine.launch import is_first

_ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
_TOGETHER = 1.0
"""Seconds: `timeout` and some schedulers send a signal twice, to a process and to its group."""


class Interruption:
    """The signal that has ended a command.

    Attributes:
        number: of the signal; None where there was none.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._when = 0.0

    def told(self, error: BaseException) -> int:
        """Says in one line on stderr, in one of the processes, what ended the command, with the notes of `error`.

        Returns:
            The exit code of shells, 128 and the signal's number.
        """
        number = signal.SIGINT if self.number is None else self.number
        words = "; ".join([f"ended by {signal.Signals(number).name}", *getattr(error, "__notes__", ())])
        if is_first():
            with suppress(OSError):  # of a terminal that is closed
                print(f"percep: {words}", file=sys.stderr, flush=True)
        return 128 + number

    def _receive(self, number: int, _: FrameType | None) -> None:
        if self.number is None:
            self.number, self._when = number, time.monotonic()
            raise KeyboardInterrupt
        if time.monotonic() - self._when > _TOGETHER:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


@contextmanager
def in_order() -> Iterator[Interruption]:
    """Makes SIGTERM and SIGHUP raise KeyboardInterrupt, as SIGINT does, unless they are ignored or handled already.

    A second one, more than a second later, ends the process at once.
    """
    interruption = Interruption()
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in _ENDING:
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                before[number] = signal.signal(number, interruption._receive)
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

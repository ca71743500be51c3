"""Processes that read ahead for another one, and end with it."""

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import parent_process

from percep.errors import UnavailableError
from percep.runs.engine.launch import is_job

_LEFT = [getattr(signal, name) for name in ("SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)]
_PR_SET_PDEATHSIG = 1


def left_to_the_parent(_: int) -> None:
    """For a process that works for another: signals of a terminal or a scheduler, which reach both, are the other's.

    It ends when it is told to by SIGTERM, without being an error to the other, and when the other has ended in any way.
    In a submitit job SIGTERM is no order to end, and SIGUSR2 would make each process queue the job again.
    """
    for number in _LEFT:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN if is_job() else lambda *_: os._exit(0))
    parent = parent_process()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if parent is not None and parent.pid != os.getppid():  # it has ended before this was asked for
            os._exit(0)


@contextmanager
def deaths_reported() -> Iterator[None]:
    """For the process they read for: what torch raises when one of them has died, wherever it is met at that time.

    Raises:
        UnavailableError: one of them has died.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise UnavailableError(
            "a process that reads ahead has died, for want of memory perhaps: run the same command again, which "
            "continues, with fewer of them by data.workers, or 0 for none"
        ) from error

"""Whether anybody reads what is printed."""

import os
import select
import sys
from collections.abc import Iterator
from typing import TextIO


def is_unread(error: BaseException) -> bool:
    """Whether an error is that of printing to a pipe that nobody reads any more, and not that of another pipe."""
    return isinstance(error, BrokenPipeError) and any(map(_is_closed, _streams()))


def leave_unread() -> int:
    """Leaves nothing to be written at exit to a pipe that is closed, as of `percep --help | head -1`; the exit code."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in _streams():
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
    return 141


def _streams() -> Iterator[TextIO]:
    """Those this process was started with."""
    return filter(None, (sys.stdout, sys.stderr))


def _is_closed(stream: TextIO) -> bool:
    """Whether the other end of a stream's pipe or socket is closed; False on Windows, which cannot be asked."""
    if not hasattr(select, "poll"):
        return False
    try:
        number = stream.fileno()
    except (OSError, ValueError):  # a stream of Python's alone
        return False
    poll = select.poll()
    poll.register(number, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))

"""Lines in a log: when the next one is due, and how it is written."""

import sys
from time import localtime, monotonic, strftime

_FIRST, _LONGEST = 5.0, 60.0
"""Seconds to the first line, and at most between two."""


class ProgressLog:
    """Lines on stderr, at intervals that double: soon enough to see that a run works, and few in a run of hours."""

    def __init__(self) -> None:
        self._interval = _FIRST
        self._due: float | None = None

    def is_due(self) -> bool:
        """Whether a line is to be written now; then the next one is due later. The first call starts the clock."""
        now = monotonic()
        if self._due is None:
            self._due = now + self._interval
        if now < self._due:
            return False
        self._interval = min(2 * self._interval, _LONGEST)
        self._due = now + self._interval
        return True

    def write(self, words: str) -> None:
        """Writes a line with the time of day, at once and without control characters.

        Raises:
            OSError: it cannot be written.
        """
        if sys.stderr is None:  # as in a process without a console on Windows
            return
        printable = "".join(character if character.isprintable() else "?" for character in words)
        sys.stderr.write(f"[{strftime('%H:%M:%S', localtime())}] {printable}\n")
        sys.stderr.flush()

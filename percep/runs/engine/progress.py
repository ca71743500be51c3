"""One display of what all processes of a run have done."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from percep.errors import UnavailableError
from percep.runs.engine.distributed import Processes

_EVERY = 0.5
"""Seconds between two readings of the counters."""


class Screen(Console):
    """stderr, whose end ends the run: rich would take it for an exit without a reason."""

    def __init__(self) -> None:
        super().__init__(stderr=True)

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


class Tally:
    """Counters of a run, shared by its processes; the first process shows them.

    What is counted is rows: a photograph has one in every stage, and in a comparison one under every attack.

    Args:
        processes: which share the run.
        title: of the display.
        shards: how many there are.

    Attributes:
        count: how many rows there will be, or None: then it is estimated from the shards that are finished.
        lasting: whether the display stays on the terminal when it ends.
    """

    def __init__(self, processes: Processes, title: str, shards: int) -> None:
        self.processes, self.title, self.shards = processes, title, shards
        self.count: int | None = None
        self.lasting = True
        self._start: float | None = None
        self._before = 0

    def add(self, done: int, fooled: int) -> None:
        """Counts rows that are done, and those of them whose photograph fooled the model."""
        self.processes.count("done", done)
        self.processes.count("fooled", fooled)

    def add_found(self, done: int, fooled: int) -> None:
        """Counts rows that were done before, or will not be: they are no part of the speed."""
        self.add(done, fooled)
        self._before += done

    def add_shard(self, rows: int) -> None:
        """Counts a shard that was read to its end, and the rows of it."""
        self.processes.count("read", rows)
        self.processes.count("shards", 1)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Shows the counters on stderr, in the first process, as they grow."""
        if self.processes.rank:
            yield
            return
        with _display(transient=not self.lasting) as display:
            self._start = monotonic() if self._start is None else self._start
            bar = display.add_task(
                self.title, total=self.count, completed=self.processes.count("done"), note="", left=""
            )
            over = threading.Event()

            def update() -> None:
                self._update(display, bar)

            def watch() -> None:
                with suppress(BrokenPipeError, UnavailableError):  # which this process's own thread meets as well
                    while not over.wait(_EVERY):
                        update()

            watcher = threading.Thread(target=watch, daemon=True)
            watcher.start()
            try:
                yield
            finally:
                over.set()
                watcher.join()
                with suppress(UnavailableError):  # the counters are gone: what ended the run is the error to report
                    update()

    def _update(self, display: Progress, bar: TaskID) -> None:
        assert self._start is not None
        done, total = self.processes.count("done"), self._total()
        rate = (done - self._before) / max(monotonic() - self._start, 1e-9)
        known = f"{total:,}" if self.count is not None else "?" if total is None else f"about {total:,}"
        speed = f"{rate:.2g}" if 0 < rate < 0.1 else f"{rate:.2f}"
        note = f"{done:,}/{known}  {speed}/s  {self.processes.count('fooled'):,} fooled"
        left = "-:--:--" if total is None or not rate else str(timedelta(seconds=round((total - done) / rate)))
        display.update(bar, completed=done, total=total, note=note, left=left)

    def _total(self) -> int | None:
        finished = self.processes.count("shards")
        if self.count is not None or not finished:
            return self.count
        return max(round(self.processes.count("read") / finished * self.shards), self.processes.count("done"))


def _display(transient: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        TextColumn("{task.fields[left]}", markup=False),
        console=Screen(),
        transient=transient,
    )

"""What all processes of a run have done: a display on a terminal, a line from time to time in a log."""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from time import monotonic
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from percep.errors import UnavailableError
from percep.runs.engine.distributed import Processes
from percep.runs.engine.progress_log import ProgressLog
from percep.runs.engine.stage import Stage

_EVERY = 0.5
"""Seconds between two readings of the counters."""


class Screen(Console):
    """stderr, whose end ends the run: rich would take it for an exit without a reason."""

    def __init__(self) -> None:
        super().__init__(stderr=True)

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


class _Counts(NamedTuple):
    """The shared counters: rows, those whose photograph fooled the model; rows of finished shards, and their number."""

    done: int = 0
    fooled: int = 0
    read: int = 0
    shards: int = 0


@dataclass(frozen=True)
class _Beginning:
    """From where a reading counts.

    Attributes:
        counts: the counters then.
        found: how many rows had been found done by then.
        time: in seconds; None before anything is shown.
    """

    counts: _Counts
    found: int = 0
    time: float | None = None

    def timed(self) -> "_Beginning":
        """With the present time, unless it has one."""
        return self if self.time is not None else replace(self, time=monotonic())


@dataclass(frozen=True)
class _Reading:
    """What the counters say.

    Attributes:
        done, fooled: rows, and those whose photograph fooled the model.
        total: how many rows there will be; None if nothing is known of it.
        exact: whether the total is known, not estimated.
        seconds: that it took.
        rate: rows per second, without those that were found done.
    """

    done: int
    fooled: int
    total: int | None
    exact: bool
    seconds: float
    rate: float

    @property
    def counted(self) -> str:
        total = "?" if self.total is None else f"{self.total:,}" if self.exact else f"about {self.total:,}"
        return f"{self.done:,}/{total}"

    @property
    def speed(self) -> str:
        return f"{self.rate:.2g}/s" if 0 < self.rate < 0.1 else f"{self.rate:.2f}/s"

    @property
    def left(self) -> str | None:
        """Time until all is done; None if it is not known."""
        if self.total is None or not self.rate:
            return None
        return str(timedelta(seconds=round((self.total - self.done) / self.rate)))

    def words(self, unit: str, attacks: bool) -> str:
        """All but the time, of rows called `unit`, which are those of an attack or not."""
        fooled = f", {self.fooled:,} fooled" if attacks else ""
        return f"{self.counted} {unit}, {self.speed}{fooled}"


class Tally:
    """Counters of a run, shared by its processes; the first process shows them.

    What is counted is rows: a photograph has one in every stage, and in a comparison one under every attack. A terminal
    shows those of all stages. A line in a log is of one stage, whose rows take alike; the last line is of all.

    Args:
        processes: which share the run.
        task: its name.
        shards: how many there are, in all stages together.
        stages: how many stages there are, each over all photographs.

    Attributes:
        count: how many rows there will be, or None: then it is estimated from the shards that are finished.
        lasting: whether what is shown stays on the terminal, or ends the log.
    """

    def __init__(self, processes: Processes, task: str, shards: int, stages: int = 1) -> None:
        self.processes, self.task, self.shards, self.stages = processes, task, shards, stages
        self.count: int | None = None
        self.lasting = True
        self._stage: Stage | None = None
        self._unit, self._attacks = "photographs", False
        self._found = 0
        self._run_from = self._stage_from = _Beginning(_Counts())
        self._log = ProgressLog()

    def add(self, done: int, fooled: int) -> None:
        """Counts rows that are done, and those of them whose photograph fooled the model."""
        self.processes.count("done", done)
        self.processes.count("fooled", fooled)

    def add_found(self, done: int, fooled: int) -> None:
        """Counts rows that were done before, or will not be: they are no part of the speed."""
        self.add(done, fooled)
        self._found += done

    def add_shard(self, rows: int) -> None:
        """Counts a shard that was read to its end, and the rows of it."""
        self.processes.count("read", rows)
        self.processes.count("shards", 1)

    def begin(self, stage: Stage) -> None:
        """Begins a stage: in the first process, while no process counts."""
        self._stage, self.lasting = stage, False
        self._unit = stage.unit if self.stages == 1 else "passes over a photograph"
        self._attacks |= stage.fooled is not None
        self._stage_from = _Beginning(self._counts(), self._found)

    def end(self) -> None:
        """Shows the totals of all stages, for good."""
        self._stage, self.lasting = None, True
        with self.shown():
            pass

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Shows the counters on stderr, in the first process, as they grow.

        Raises:
            UnavailableError: another process has died.
        """
        if self.processes.rank:
            yield
            return
        self._run_from, self._stage_from = self._run_from.timed(), self._stage_from.timed()
        with self._on_terminal() if _is_terminal() else self._in_log() as update, _repeated(update):
            yield

    @contextmanager
    def _on_terminal(self) -> Iterator[Callable[[], None]]:
        with _display(transient=not self.lasting) as display:
            bar = display.add_task(self._title, total=self.count, completed=self._counts().done, note="", left="")

            def update() -> None:
                reading = self._reading(self._run_from, self.stages)
                note = f"{reading.counted}  {reading.speed}  {reading.fooled:,} fooled"
                left = reading.left or "-:--:--"
                display.update(bar, completed=reading.done, total=reading.total, note=note, left=left)

            try:
                yield update
            finally:
                with suppress(UnavailableError):  # the counters are gone: what ended the run is the error to report
                    update()

    @contextmanager
    def _in_log(self) -> Iterator[Callable[[], None]]:
        def update() -> None:
            if self._stage is not None and self._log.is_due():
                self._log.write(self._line(self._stage))

        yield update
        if self.lasting:
            self._log.write(self._last_line())

    @property
    def _title(self) -> str:
        stage = self._stage
        return self.task if stage is None or stage.title is None else f"{self.task}: {stage.title}"

    def _line(self, stage: Stage) -> str:
        """A stage in words."""
        place, of_what = (f", stage {stage.number} of {self.stages}", " of the stage") if self.stages > 1 else ("", "")
        reading = self._reading(self._stage_from, 1)
        left = "" if reading.left is None else f", {reading.left} left{of_what}"
        return f"{self._title}{place}: {reading.words(stage.unit, stage.fooled is not None)}{left}"

    def _last_line(self) -> str:
        """All stages in words."""
        reading = self._reading(self._run_from, self.stages)
        took = timedelta(seconds=round(reading.seconds))
        return f"{self.task}: {reading.words(self._unit, self._attacks)}, in {took}"

    def _counts(self) -> _Counts:
        return _Counts(*(self.processes.count(name) for name in _Counts._fields))

    def _reading(self, beginning: _Beginning, stages: int) -> _Reading:
        """Of so many stages, from their beginning."""
        assert beginning.time is not None
        counts = _Counts(*(now - then for now, then in zip(self._counts(), beginning.counts, strict=True)))
        total, exact = self.count, self.count is not None
        if total is not None:
            total = total * stages // self.stages
        elif counts.shards:
            shards = self.shards * stages // self.stages
            total = max(round(counts.read / counts.shards * shards), counts.done)
        seconds = max(monotonic() - beginning.time, 1e-9)
        worked = counts.done - (self._found - beginning.found)
        return _Reading(counts.done, counts.fooled, total, exact, seconds, worked / seconds)


def _is_terminal() -> bool:
    """Whether stderr can show a display that changes."""
    return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


@contextmanager
def _repeated(update: Callable[[], None]) -> Iterator[None]:
    """Calls a function again and again in a thread."""
    over = threading.Event()

    def repeat() -> None:
        with suppress(OSError, UnavailableError):  # which this process's own thread meets as well
            while not over.wait(_EVERY):
                update()

    watcher = threading.Thread(target=repeat, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _display(transient: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        TextColumn("{task.fields[left]}", markup=False),
        console=Screen(),
        transient=transient,
    )

"""The work of one process among others: its part of a stage, and what it shows of theirs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
import torch.distributed as dist

from percep.data.photographs import Entry, Inventory, Photograph
from percep.errors import UnavailableError
from percep.models import Preprocessing
from percep.runs.engine.checkpoints import Checkpoints
from percep.runs.engine.distributed import Processes
from percep.runs.engine.progress import Tally
from percep.runs.engine.run import _work
from percep.runs.engine.stage import Stage
from percep.runs.engine.worker import Worker

T = TypeVar("T")
PATIENCE = 60


@dataclass(frozen=True)
class Row:
    name: str


@dataclass(frozen=True)
class Two:
    """Two photographs in one shard, with names and nothing else."""

    preprocessing: Preprocessing = field(default_factory=lambda: Preprocessing(resize=12, crop=12))
    shards: tuple[str, ...] = ("only",)

    def shard(self, number: int) -> Iterator[Entry]:
        for name in "ab":
            yield Entry(name, Path("nowhere"), None, problem="not read")

    def inventory(self) -> Inventory:
        return Inventory("", 2)

    def __iter__(self) -> Iterator[Photograph]:
        raise NotImplementedError


@dataclass(frozen=True)
class FirstOfTwo(Processes):
    """The first of two processes, of which the other works until this one waits for it, and then counts."""

    seen: Event = field(default_factory=Event)

    def first(self, action: Callable[[], T]) -> T:
        return action()

    def gather(self, value: T) -> list[T]:
        assert not self.seen.is_set()
        self.count("done", 1)
        assert self.seen.wait(PATIENCE), "the other process's photograph is not shown"
        return [value, value]


@pytest.mark.parametrize("terminal", [True, False])
def test_the_display_follows_the_others_while_this_process_waits(
    terminal: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes = FirstOfTwo(0, 2, dist.HashStore())
    read = Tally._reading

    def watched(tally: Tally, *arguments: Any) -> object:
        reading = read(tally, *arguments)
        if reading.done == 2:
            processes.seen.set()
        return reading

    monkeypatch.setattr(Tally, "_reading", watched)
    monkeypatch.setattr("percep.runs.engine.progress._is_terminal", lambda: terminal)
    monkeypatch.setattr("percep.runs.engine.progress_log._FIRST", 0.0)
    monkeypatch.setattr("percep.runs.engine.progress._EVERY", 0.01)
    checkpoints = Checkpoints(tmp_path, (Row,))
    checkpoints.write(0, 0, [(Row("a"),)], last=False)  # this process's: the other is left with b
    stage = Stage(Two(), checkpoints, 1, lambda: lambda batch: pytest.fail("it is not this process's"))
    Worker(processes, Tally(processes, "attack", 1), 0).do(stage)
    assert processes.seen.is_set()


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_counters_that_are_gone_do_not_hide_what_ended_the_run(tmp_path: Path, error: type[BaseException]) -> None:
    store = dist.HashStore()
    lost = SimpleNamespace(add=store.add)
    worker = Worker(FirstOfTwo(0, 2, lost), Tally(FirstOfTwo(0, 2, lost), "attack", 1), 0)

    def gone(name: str, more: int) -> int:
        raise RuntimeError("Connection reset by peer")

    def work(worker: Worker) -> None:
        with worker.tally.shown():
            lost.add = gone
            raise error("what ended it")

    with pytest.raises(error, match="what ended it"):
        _work(SimpleNamespace(work=work, folder=tmp_path), worker)
    lost.add = store.add
    with pytest.raises(UnavailableError, match="another process has died"):
        _work(SimpleNamespace(work=lambda worker: setattr(lost, "add", gone), folder=tmp_path), worker)

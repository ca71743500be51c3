"""What a run says in a log: when, and of what."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch.distributed as dist

from percep.runs.engine.distributed import Processes
from percep.runs.engine.progress import Tally, _is_terminal
from percep.runs.engine.progress_log import ProgressLog
from percep.runs.engine.stage import Stage


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, to be set."""
    time = [100.0]
    monkeypatch.setattr("percep.runs.engine.progress.monotonic", lambda: time[0])
    monkeypatch.setattr("percep.runs.engine.progress_log.monotonic", lambda: time[0])
    return time


@pytest.fixture
def one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line is due at once, and a stage has one, at its end."""

    @contextmanager
    def once(update: Callable[[], None]) -> Iterator[None]:
        yield
        update()

    monkeypatch.setattr("percep.runs.engine.progress._repeated", once)
    monkeypatch.setattr("percep.runs.engine.progress_log._FIRST", 0.0)


def _stage(**named: Any) -> Stage:
    nothing: Any = None
    return Stage(nothing, nothing, 1, nothing, **named)


def _lines(capfd: pytest.CaptureFixture[str]) -> list[str]:
    """What was said, without the time of day."""
    lines = capfd.readouterr().err.splitlines()
    assert all(re.match(r"\[\d\d:\d\d:\d\d\] ", line) for line in lines)
    return [line[11:] for line in lines]


def test_lines_come_soon_and_then_every_minute(now: list[float]) -> None:
    log, due, start = ProgressLog(), [], now[0]
    for _ in range(2 * 3600 * 10):
        if log.is_due():
            due.append(now[0] - start)
        now[0] += 0.5
    assert due[:6] == [5, 15, 35, 75, 135, 195]
    assert 590 < len(due) < 610


@pytest.mark.usefixtures("one_line")
def test_a_line_is_of_its_stage_and_the_last_one_of_all(now: list[float], capfd: pytest.CaptureFixture[str]) -> None:
    tally = Tally(Processes(0, 1, dist.HashStore()), "explain", 4, stages=4)
    tally.count = 160
    tally.begin(_stage(title="resnet, mean 0.9", unit="photographs screened", number=1))
    with tally.shown():
        now[0] += 2
        tally.add(40, 0)
    tally.begin(_stage(title="resnet, mean 0.9", unit="photographs measured", number=2, fooled=lambda row: True))
    tally.add_found(10, 4)
    with tally.shown():
        now[0] += 20
        tally.add(5, 2)
    now[0] += 3
    tally.end()
    assert _lines(capfd) == [
        "explain: resnet, mean 0.9, stage 1 of 4: 40/40 photographs screened, 20.00/s, 0:00:00 left of the stage",
        "explain: resnet, mean 0.9, stage 2 of 4: 15/40 photographs measured, 0.25/s, 6 fooled, "
        "0:01:40 left of the stage",
        "explain: 55/160 passes over a photograph, 1.80/s, 6 fooled, in 0:00:25",
    ]


@pytest.mark.usefixtures("one_line")
def test_the_number_in_a_stage_is_estimated_from_its_finished_shards(
    now: list[float], capfd: pytest.CaptureFixture[str]
) -> None:
    tally = Tally(Processes(0, 1, dist.HashStore()), "explain", 8, stages=2)
    for number, shards, said in ((1, 4, "40/about 40"), (2, 0, "4/?"), (2, 1, "7/about 12")):
        tally.begin(_stage(number=number))
        with tally.shown():
            now[0] += 10
            tally.add(10 * shards if number == 1 else 4 + 3 * shards, 0)
            for _ in range(shards):
                tally.add_shard(10 if number == 1 else 3)
        (line,) = _lines(capfd)
        now[0] += 60
        assert f": {said} photographs, " in line
        assert (" left of the stage" in line) == (shards > 0)


@pytest.mark.usefixtures("one_line")
def test_a_task_of_one_stage(now: list[float], capfd: pytest.CaptureFixture[str]) -> None:
    tally = Tally(Processes(0, 1, dist.HashStore()), "compare", 1)
    tally.count = 1640
    tally.begin(_stage(unit="attacks on a photograph", fooled=lambda row: True))
    with tally.shown():
        now[0] += 1000
        tally.add(40, 30)
    tally.end()
    assert _lines(capfd) == [
        "compare: 40/1,640 attacks on a photograph, 0.04/s, 30 fooled, 11:06:40 left",
        "compare: 40/1,640 attacks on a photograph, 0.04/s, 30 fooled, in 0:16:40",
    ]


def test_nothing_but_the_first_process_speaks(capfd: pytest.CaptureFixture[str]) -> None:
    tally = Tally(Processes(1, 2, dist.HashStore()), "attack", 1)
    tally.end()
    assert capfd.readouterr().err == ""


def test_a_line_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    ProgressLog().write("net\x1b[2K\nwork\rä")
    assert _lines(capfd) == ["net?[2K?work?ä"]


@pytest.mark.parametrize(
    ("tty", "term", "shown"), [(True, "xterm", True), (True, "dumb", False), (False, "xterm", False)]
)
def test_a_display_is_for_a_terminal(tty: bool, term: str, shown: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr("sys.stderr", SimpleNamespace(isatty=lambda: tty))
    assert _is_terminal() == shown

"""The display of a run on a terminal: what it says of the counters that all processes share."""

import pytest
import torch.distributed as dist

from percep.runs.engine.distributed import Processes
from percep.runs.engine.progress import Tally


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("percep.runs.engine.progress._is_terminal", lambda: True)


def _shown(tally: Tally, capfd: pytest.CaptureFixture[str]) -> str:
    with tally.shown():
        pass
    return " ".join(capfd.readouterr().err.split())


def test_a_known_number(capfd: pytest.CaptureFixture[str]) -> None:
    tally = Tally(Processes(0, 1, dist.HashStore()), "attack", 1)
    tally.count = 5000
    tally.add(1200, 800)
    assert " 1,200/5,000 " in _shown(tally, capfd)
    tally.add(1, 1)
    assert " 801 fooled " in _shown(tally, capfd)


def test_a_display_that_does_not_last(capfd: pytest.CaptureFixture[str]) -> None:
    tally = Tally(Processes(0, 1, dist.HashStore()), "explain", 1)
    tally.count, tally.lasting = 3, False
    assert _shown(tally, capfd) == ""
    tally.lasting = True
    assert " 0/3 " in _shown(tally, capfd)


def test_what_was_found_done_is_no_part_of_the_speed(capfd: pytest.CaptureFixture[str]) -> None:
    tally = Tally(Processes(0, 1, dist.HashStore()), "attack", 1)
    tally.count = 5
    tally.add_found(3, 1)
    assert " 3/5 0.00/s 1 fooled " in _shown(tally, capfd)
    tally.add(2, 0)
    assert " 5/5 0.00/s" not in _shown(tally, capfd)


def test_a_number_that_is_estimated_from_finished_shards(capfd: pytest.CaptureFixture[str]) -> None:
    tally = Tally(Processes(0, 1, dist.HashStore()), "attack", 4)
    tally.add(3, 0)
    assert " 3/? " in _shown(tally, capfd)
    tally.add_shard(10)
    assert " 3/about 40 " in _shown(tally, capfd)
    for photographs in (10, 10, 11):
        tally.add_shard(photographs)
    tally.add(38, 0)
    assert " 41/about 41 " in _shown(tally, capfd)


def test_others_count_and_the_first_process_shows(capfd: pytest.CaptureFixture[str]) -> None:
    store = dist.HashStore()
    first, second = (Tally(Processes(rank, 2, store), "attack", 1) for rank in (0, 1))
    first.count = second.count = 10
    with second.shown():
        second.add(4, 4)
    assert capfd.readouterr().err == ""
    first.add(1, 0)
    assert " 5/10 " in _shown(first, capfd)


@pytest.mark.parametrize(
    ("seconds", "done", "words"),
    [
        (100.0, 50, " 150/1,000 0.50/s 0 fooled 0:28:20"),
        (10.0, 850, " 950/1,000 85.00/s 0 fooled 0:00:01"),
        (36000.0, 36, " 136/1,000 0.001/s 0 fooled 10 days, 0:00:00"),
        (100.0, 900, " 1,000/1,000 9.00/s 0 fooled 0:00:00"),
        (100.0, 0, " 100/1,000 0.00/s 0 fooled -:--:--"),
    ],
)
def test_the_time_left_is_what_remains_at_the_rate_beside_it(
    seconds: float, done: int, words: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever happened lately: the last photographs may have been faster than the rest."""
    now = [5.0]
    monkeypatch.setattr("percep.runs.engine.progress.monotonic", lambda: now[0])
    tally = Tally(Processes(0, 1, dist.HashStore()), "attack", 1)
    tally.count = 1000
    tally.add_found(100, 0)
    with tally.shown():
        now[0] += seconds
        tally.add(done, 0)
    assert words in " ".join(capfd.readouterr().err.split())


def test_a_number_that_is_not_known_has_no_time_left(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("percep.runs.engine.progress.monotonic", lambda: now[0])
    tally = Tally(Processes(0, 1, dist.HashStore()), "attack", 4)
    with tally.shown():
        now[0] = 10.0
        tally.add(5, 0)
    assert " 5/? 0.50/s 0 fooled -:--:--" in " ".join(capfd.readouterr().err.split())
    with tally.shown():
        tally.add_shard(5)
    assert " 5/about 20 0.50/s 0 fooled 0:00:30" in " ".join(capfd.readouterr().err.split())

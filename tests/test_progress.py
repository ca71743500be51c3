"""The display of a run: what it says of the counters that all processes share."""

import pytest
import torch.distributed as dist

from percep.scale.processes import Processes
from percep.scale.progress import Tally


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
    assert " 801 turned " in _shown(tally, capfd)


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
    assert " 3/5 0.00/s 1 turned " in _shown(tally, capfd)
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

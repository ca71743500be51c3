"""The units of a comparison: every attack on every photograph once, dealt alike."""

from collections import Counter

import pytest

from percep import data
from percep.runs.comparison.units import RepeatedPhotographs, unit_of
from percep.runs.engine.batches import Batches, Finished
from tests.support.command import PREPROCESSING


@pytest.mark.parametrize("attacks", [1, 2, 6])
def test_every_photograph_is_under_every_attack_once(attacks: int) -> None:
    units = [unit_of(number, attacks) for number in range(5 * attacks)]
    assert [place for place, _ in units] == [place for place in range(5) for _ in range(attacks)]
    assert sorted(units) == [(place, attack) for place in range(5) for attack in range(attacks)]


@pytest.mark.parametrize("processes", [2, 3, 4, 6])
def test_processes_that_take_turns_share_every_attack(processes: int) -> None:
    for rank in range(processes):
        counts = Counter(unit_of(number, 6)[1] for number in range(rank, 36 * processes, processes))
        assert len(counts) == 6 and max(counts.values()) <= 2 * min(counts.values())


def test_photographs_are_repeated_and_counted(elsewhere: None) -> None:
    photographs = data.folder("photos", PREPROCESSING, {})
    repeated = RepeatedPhotographs(photographs, 3)
    known, once = repeated.inventory(), photographs.inventory()
    assert (known.digest, known.count, known.entries) == (once.digest, once.count, 3 * len(photographs))
    batches = list(Batches(repeated, 1, Finished(), rank=0, world=1))
    assert [batch.photographs[0].name for batch in batches] == [name for name in "abcd" for _ in range(3)]
    assert [batch.last for batch in batches] == [False] * 11 + [True]

"""What a comparison deals out: one attack on one photograph is a unit of work, and a part."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, repeat

from percep.data.photographs import Entry, Inventory, Photograph, Source
from percep.models import Preprocessing


@dataclass(frozen=True)
class RepeatedPhotographs:
    """Photographs, each of them `times` times in a row: once for every attack."""

    photographs: Source
    times: int

    @property
    def preprocessing(self) -> Preprocessing:
        """See `percep.data.photographs.Source`."""
        return self.photographs.preprocessing

    @property
    def shards(self) -> tuple[str, ...]:
        """See `percep.data.photographs.Source`."""
        return self.photographs.shards

    def shard(self, number: int) -> Iterator[Entry]:
        """See `percep.data.photographs.Source`."""
        return chain.from_iterable(repeat(entry, self.times) for entry in self.photographs.shard(number))

    def inventory(self) -> Inventory:
        """That of the photographs, with `times` as many entries."""
        known = self.photographs.inventory()
        return replace(known, entries=None if known.entries is None else self.times * known.entries)

    def __iter__(self) -> Iterator[Photograph]:
        return chain.from_iterable(repeat(photograph, self.times) for photograph in self.photographs)


def unit_of(number: int, attacks: int) -> tuple[int, int]:
    """The place of a photograph in its shard, and which of so many attacks it is to be under, of a unit's number.

    Each photograph begins with the attack after that of the one before: processes that take units in turn would be
    given the same attacks again and again, and some are slower than others.
    """
    place, turn = divmod(number, attacks)
    return place, (place + turn) % attacks

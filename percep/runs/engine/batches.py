"""Photographs in batches that do not depend on how many processes share them."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import count

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from percep.data.photographs import Entry, Photograph, Source
from percep.errors import InputError
from percep.runs.engine.readers import left_to_the_parent


@dataclass(frozen=True)
class Batch:
    """The unit of work: photographs that follow each other in a shard, always the same ones together.

    What a network answers in float32 depends on the size of its batch, in the last digits, and an attack may go
    another way from there. So batches are formed before they are dealt out, and one is finished or it is not.

    Attributes:
        shard, number: of the shard, and of the batch in it.
        first: place of the first photograph in the shard.
        photographs: without their images.
        levels: `(R, C, H, W)` uint8, C of 1 or 3, the images of those that have no problem: one array passes quickly
            from a worker.
        last: nothing follows in the shard.
        problem: why the shard could not be read any further; then there are no photographs.
    """

    shard: int
    number: int
    first: int
    photographs: tuple[Photograph, ...]
    levels: np.ndarray | None
    last: bool
    problem: str | None = None

    def read(self) -> list[Photograph]:
        """The photographs with their images."""
        images = iter(() if self.levels is None else torch.from_numpy(self.levels).float() / 255)
        return [
            photograph if photograph.problem is not None else replace(photograph, image=next(images))
            for photograph in self.photographs
        ]


@dataclass(frozen=True)
class Finished:
    """Which batches need not be done again.

    Attributes:
        shards: those of which nothing is left.
        batches: numbers of those that are finished, by shard, of the other shards.
    """

    shards: frozenset[int] = frozenset()
    batches: Mapping[int, frozenset[int]] = field(default_factory=dict)

    def __contains__(self, batch: tuple[int, int]) -> bool:
        shard, number = batch
        return shard in self.shards or number in self.batches.get(shard, ())


def readers_of(shard: int, shards: int, readers: int) -> range:
    """Which of some readers read a shard: one where there are enough shards, otherwise every so many."""
    return range(shard % readers, readers, min(shards, readers))


class Batches(IterableDataset[Batch]):
    """The batches of one process that are not finished.

    A shard is read by one process, or where there are fewer shards than processes by several, which take its batches
    in turn. Workers of a data loader share a process's work in the same way.

    Args:
        source: the photographs.
        size: of a batch.
        finished: what is left out.
        rank, world: which process, of how many.
    """

    def __init__(self, source: Source, size: int, finished: Finished, rank: int, world: int) -> None:
        self.source, self.size, self.finished = source, size, finished
        self.rank, self.world = rank, world

    def loader(self, workers: int) -> Iterable[Batch]:
        """The batches, read ahead by so many processes; in this one, when they are asked for, by none.

        Iterate under `percep.runs.engine.readers.deaths_reported`.
        """
        return DataLoader(self, batch_size=None, num_workers=workers, worker_init_fn=left_to_the_parent)

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        workers, number = (1, 0) if worker is None else (worker.num_workers, worker.id)
        reader, readers = self.rank + self.world * number, self.world * workers
        for shard in range(len(self.source.shards)):
            group = readers_of(shard, len(self.source.shards), readers)
            if reader in group and shard not in self.finished.shards:
                yield from self._of_shard(shard, group.index(reader), len(group))

    def _of_shard(self, shard: int, turn: int, turns: int) -> Iterator[Batch]:
        batches = count()
        try:
            for (entries, last), number in zip(_chunks(self.source.shard(shard), self.size), batches, strict=False):
                if number % turns == turn and (shard, number) not in self.finished:
                    yield self._batch(shard, number, entries, last)
        except InputError as error:
            if turn == 0:  # one of the readers is enough to say so
                yield Batch(shard, next(batches), 0, (), None, False, str(error))

    def _batch(self, shard: int, number: int, entries: list[Entry], last: bool) -> Batch:
        photographs, levels = [], []
        for entry in entries:
            photograph = entry.read(self.source.preprocessing)
            if photograph.image is not None:
                levels.append((photograph.image * 255).round().to(torch.uint8).numpy())
            photographs.append(replace(photograph, image=None))
        first = number * self.size
        return Batch(shard, number, first, tuple(photographs), np.stack(levels) if levels else None, last)


def _chunks(entries: Iterable[Entry], size: int) -> Iterator[tuple[list[Entry], bool]]:
    """Entries in lists of `size`, and whether it is the last: that one may be shorter, or empty if there are none."""
    held: list[Entry] = []
    for entry in entries:
        if len(held) == size:
            yield held, False
            held = []
        held.append(entry)
    yield held, True

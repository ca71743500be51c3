"""Batches dealt out: every photograph once, in the same company, whoever does it and whatever was done before."""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from percep import data
from percep.data.photographs import Entry, Inventory, Photograph
from percep.errors import InputError, UnavailableError
from percep.models import Preprocessing
from percep.runs.engine import batches as module
from percep.runs.engine.batches import Batch, Batches, Finished, readers_of
from percep.runs.engine.readers import deaths_reported

SIDE = 12
PREPROCESSING = Preprocessing(resize=SIDE, crop=SIDE)
NOTHING = Finished()


@dataclass(frozen=True)
class _Named:
    """Photographs with names and nothing else, in shards of given sizes; one shard may break off at its end."""

    sizes: tuple[int, ...]
    broken: int | None = None
    preprocessing: Preprocessing = PREPROCESSING

    @property
    def shards(self) -> tuple[str, ...]:
        return tuple(map(str, range(len(self.sizes))))

    def shard(self, number: int) -> Iterator[Entry]:
        for place in range(self.sizes[number]):
            yield Entry(f"{number}/{place}", Path("nowhere"), None, problem="not read")
        if number == self.broken:
            raise InputError("it breaks off")

    def inventory(self) -> Inventory:
        return Inventory("", None)

    def __iter__(self) -> Iterator[Photograph]:
        raise NotImplementedError


@dataclass(frozen=True)
class _Worker:
    id: int
    num_workers: int


def _dealt(source: _Named, size: int, finished: Finished, world: int, workers: int) -> list[list[Batch]]:
    """The batches of every reader."""
    found = []
    with pytest.MonkeyPatch.context() as patch:
        for rank in range(world):
            for worker in range(max(workers, 1)):
                info = _Worker(worker, workers) if workers else None
                patch.setattr(module, "get_worker_info", lambda info=info: info)
                found.append(list(Batches(source, size, finished, rank, world)))
    return found


def _names(batch: Batch) -> tuple[str, ...]:
    return tuple(photograph.name for photograph in batch.photographs)


sizes = st.lists(st.integers(0, 12), min_size=1, max_size=7).map(tuple)


@settings(deadline=None)
@given(sizes, st.integers(1, 5), st.integers(1, 5), st.integers(0, 3), st.data())
def test_batches_are_the_same_however_they_are_dealt(
    sizes: tuple[int, ...], size: int, world: int, workers: int, draw: st.DataObject
) -> None:
    source = _Named(sizes)
    (alone,) = _dealt(source, size, NOTHING, 1, 0)
    assert [name for batch in alone for name in _names(batch)] == [
        f"{shard}/{place}" for shard, count in enumerate(sizes) for place in range(count)
    ]
    assert sorted(batch.shard for batch in alone if batch.last) == list(range(len(sizes)))
    for batch in alone:
        assert batch.first == batch.number * size
        assert len(batch.photographs) == size or batch.last
    done = draw.draw(st.sets(st.sampled_from([(batch.shard, batch.number) for batch in alone])))
    whole = {shard for shard in range(len(sizes)) if all(b.shard != shard or (shard, b.number) in done for b in alone)}
    some = {shard: frozenset(number for s, number in done if s == shard) for shard, _ in done if shard not in whole}
    dealt = _dealt(source, size, Finished(frozenset(whole), some), world, workers)
    found = [(batch.shard, batch.number, _names(batch), batch.last) for batches in dealt for batch in batches]
    expected = [(b.shard, b.number, _names(b), b.last) for b in alone if (b.shard, b.number) not in done]
    assert sorted(found) == sorted(expected)


@given(st.integers(1, 40), st.integers(1, 40))
def test_every_shard_has_readers_and_every_reader_has_shards(shards: int, readers: int) -> None:
    groups = [readers_of(shard, shards, readers) for shard in range(shards)]
    assert all(groups)
    assert {reader for group in groups for reader in group} == set(range(readers)) or shards >= readers
    loads = [sum(reader in group for group in groups) for reader in range(readers)]
    assert max(loads) - min(loads) <= 1


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 9), st.integers(1, 4), st.integers(1, 4))
def test_a_shard_that_breaks_off_is_said_once_and_not_called_finished(count: int, size: int, world: int) -> None:
    dealt = _dealt(_Named((count,), broken=0), size, NOTHING, world, 0)
    found = [batch for batches in dealt for batch in batches]
    (problem,) = [batch for batch in found if batch.problem is not None]
    assert problem.problem == "it breaks off" and not problem.photographs
    assert not any(batch.last for batch in found)
    complete = {batch.number for batch in found if batch.problem is None}
    assert complete == set(range(max(count - 1, 0) // size))  # the one it breaks off in waits for a whole shard


@pytest.mark.multiprocess
def test_images_pass_through_workers_unchanged(tmp_path: Path) -> None:
    for seed in range(5):
        levels = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(levels).save(tmp_path / f"{seed}.png")
    (tmp_path / "2.png").write_text("no image")
    photographs = data.folder(tmp_path, PREPROCESSING, {})
    batches = Batches(photographs, 2, NOTHING, 0, 1)
    for workers in (0, 2):
        found = sorted(batches.loader(workers), key=lambda batch: batch.number)
        read = [photograph for batch in found for photograph in batch.read()]
        for photograph, expected in zip(read, photographs, strict=True):
            assert (photograph.name, photograph.problem) == (expected.name, expected.problem)
            if expected.image is not None:
                assert photograph.image.dtype == torch.float32 and torch.equal(photograph.image, expected.image)


@pytest.mark.multiprocess
def test_a_reader_that_died_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (SIDE, SIDE)).save(tmp_path / "a.png")

    def killed(entry: Entry, preprocessing: Preprocessing) -> Photograph:
        os.kill(os.getpid(), signal.SIGKILL)
        raise NotImplementedError

    monkeypatch.setattr(Entry, "read", killed)
    batches = Batches(data.folder(tmp_path, PREPROCESSING, {}), 2, NOTHING, 0, 1)
    with pytest.raises(UnavailableError, match=r"has died.* fewer of them by data\.workers"), deaths_reported():
        list(batches.loader(1))

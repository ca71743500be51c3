"""Parts: what is written is what is read, or there is nothing."""

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from percep.errors import InputError
from percep.runs.engine.atomic import atomic
from percep.runs.engine.batches import Finished
from percep.runs.engine.checkpoints import Checkpoints


@dataclass(frozen=True)
class Inner:
    number: float
    word: str | None = None


@dataclass(frozen=True)
class Row:
    name: str
    count: int | None = None
    size: float | None = None
    good: bool | None = None
    inner: Inner | None = None


@dataclass(frozen=True)
class Extra:
    content: bytes | None = None
    inners: tuple[Inner, ...] = ()
    curve: tuple[float, ...] | None = None


numbers = st.floats(allow_nan=False) | st.just(math.inf)
words = st.text(max_size=8)
inners = st.builds(Inner, numbers, st.none() | words)
rows = st.builds(
    Row,
    words,
    st.none() | st.integers(-(2**63), 2**63 - 1),
    st.none() | numbers,
    st.none() | st.booleans(),
    st.none() | inners,
)
extras = st.builds(
    Extra,
    st.none() | st.binary(max_size=8),
    st.lists(inners, max_size=3).map(tuple),
    st.none() | st.lists(numbers, max_size=3).map(tuple),
)


@pytest.mark.slow("many random records")
@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(rows, extras), max_size=4), st.booleans())
def test_records_come_back_as_they_were(tmp_path_factory: pytest.TempPathFactory, records: list, last: bool) -> None:
    parts = Checkpoints(tmp_path_factory.mktemp("parts"), (Row, Extra))
    parts.write(3, 0, records, last=last)
    assert list(parts) == [(3, 0, records)]
    assert parts.finished() == (Finished(frozenset([3])) if last else Finished(frozenset(), {3: frozenset([0])}))


def test_nan_is_not_none_and_names_from_disks_do_not_hurt(tmp_path: Path) -> None:
    parts = Checkpoints(tmp_path, (Row,))
    parts.write(0, 0, [(Row("a\udce9", size=math.nan),), (Row("b"),)], last=True)
    ((_, _, ((first,), (second,))),) = parts
    assert first.name == "a\\udce9" and math.isnan(first.size)
    assert second.size is None


def test_parts_are_in_order_and_other_tools_read_them(tmp_path: Path) -> None:
    parts = Checkpoints(tmp_path, (Row, Extra))
    for shard, number in ((1, 0), (0, 10), (0, 9)):
        parts.write(shard, number, [(Row(f"{shard} {number}", count=number), Extra())], last=False)
    assert [(shard, number) for shard, number, _ in parts] == [(0, 9), (0, 10), (1, 0)]
    assert list(pd.read_parquet(tmp_path).sort_values("name").name) == ["0 10", "0 9", "1 0"]
    assert list(parts.columns(["count"])) == [(0, [{"count": 9}]), (0, [{"count": 10}]), (1, [{"count": 0}])]


def test_a_shard_is_finished_when_nothing_is_missing(tmp_path: Path) -> None:
    parts = Checkpoints(tmp_path, (Row,))
    assert parts.finished() == Finished() and not parts
    parts.write(0, 2, [], last=True)
    parts.write(0, 0, [(Row("a"),)], last=False)
    assert parts.finished() == Finished(frozenset(), {0: frozenset([0, 2])})
    parts.write(0, 1, [(Row("b"),)], last=False)
    finished = parts.finished()
    assert finished == Finished(frozenset([0]), {})
    assert (0, 1) in finished and (1, 0) not in finished


def test_a_part_that_cannot_be_written_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Checkpoints(tmp_path, (Row,))
    parts.write(0, 0, [(Row("a"),)], last=False)
    write_table = pq.write_table

    def half(table: object, path: Path) -> None:
        write_table(table, path)
        path.write_bytes(path.read_bytes()[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", half)
    for number in (0, 1):
        with pytest.raises(OSError, match="No space left"):
            parts.write(0, number, [(Row("b"),)], last=False)
    assert list(parts) == [(0, 0, [(Row("a"),)])]
    assert [path.name for path in (tmp_path / "000000").iterdir()] == ["000000.parquet"]


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    parts = Checkpoints(tmp_path, (Row,))
    parts.write(0, 0, [(Row("a"),)], last=True)
    path = tmp_path / "000000" / "000000.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    for look in (parts.finished, lambda: list(parts), lambda: list(parts.columns(["name"]))):
        with pytest.raises(InputError, match=r"000000\.parquet is damaged: remove it"):
            look()


@dataclass(frozen=True)
class Before:
    """`Row` as an earlier version had it."""

    name: str
    inner: Inner | None = None


@dataclass(frozen=True)
class More(Row):
    """`Row` with a field that parts of before lack."""

    extra: int | None = None
    places: tuple[int, ...] = field(default_factory=lambda: (1, 2))


def test_a_field_that_an_earlier_part_lacks_has_its_default(tmp_path: Path) -> None:
    Checkpoints(tmp_path, (Before,)).write(0, 0, [(Before("a", Inner(1.0)),)], last=False)
    parts = Checkpoints(tmp_path, (More, Extra))
    parts.write(0, 1, [(More("b", extra=3, places=()), Extra())], last=True)
    (_, _, (former,)), (_, _, (present,)) = parts
    assert former == (More("a", inner=Inner(1.0)), Extra())
    assert present == (More("b", extra=3, places=()), Extra())
    assert [rows for _, rows in parts.columns(["name", "extra"])] == [
        [{"name": "a", "extra": None}],
        [{"name": "b", "extra": 3}],
    ]


def test_a_field_without_a_default_that_a_part_lacks_is_named(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Present:
        name: str
        needed: int

    Checkpoints(tmp_path, (Before,)).write(0, 0, [(Before("a"),)], last=True)
    parts = Checkpoints(tmp_path, (Present,))
    for look in (lambda: list(parts), lambda: list(parts.columns(["name", "needed"]))):
        with pytest.raises(InputError, match=r"000000\.parquet has no column needed: it is of another version"):
            look()


def test_a_file_is_replaced_whole_or_stays(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("before")
    with pytest.raises(KeyboardInterrupt), atomic(path) as temporary:
        temporary.write_text("ha")
        raise KeyboardInterrupt
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]
    with atomic(path) as temporary:
        temporary.write_text("after")
        assert path.read_text() == "before"
    assert path.read_text() == "after" and list(tmp_path.iterdir()) == [path]


def test_a_file_is_flushed_open_for_writing_and_a_folder_not_on_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows refuses to open a folder, and to flush what is open for reading."""
    opened, opens = [], os.open

    def watched(path: Path, mode: int) -> int:
        opened.append((path, mode))
        return opens(path, mode)

    monkeypatch.setattr("percep.runs.engine.atomic.os", SimpleNamespace(**vars(os) | {"open": watched, "name": "nt"}))
    with atomic(tmp_path / "table.csv") as temporary:
        temporary.write_text("all of it")
    assert opened == [(temporary, os.O_RDWR)]
    assert (tmp_path / "table.csv").read_text() == "all of it"

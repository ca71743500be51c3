"""Parts of a table: a Parquet file per batch, written atomically, so that a batch is finished if its file exists."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, Field, asdict, dataclass, fields
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq

from percep.errors import InputError
from percep.runs.engine.atomic import atomic, remove_remains
from percep.runs.engine.batches import Finished

_LAST = b"percep.last"
_SCALARS = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_(), bytes: pa.binary()}


@dataclass(frozen=True)
class Checkpoints:
    """The parts in a folder: `SHARD/BATCH.parquet`, both numbers.

    A part of an earlier version may lack a field: its default is read then.

    Attributes:
        folder: made when the first part is written.
        kinds: dataclasses whose fields, in this order, are the columns; a record is a tuple of one object of each.
            Fields are strings, numbers, bytes, dataclasses of these, tuples of one type, or None.
    """

    folder: Path
    kinds: tuple[type, ...]

    def write(self, shard: int, number: int, records: Sequence[tuple[Any, ...]], *, last: bool) -> list[dict[str, Any]]:
        """Writes the part of a batch, and returns its rows by column; `last` if no batch follows in the shard.

        Raises:
            OSError: the part cannot be written; then no file is left.
        """
        path = self._path(shard, number)
        path.parent.mkdir(parents=True, exist_ok=True)
        schema = pa.schema([column for kind in self.kinds for column in _columns(kind)])
        rows = [{name: value for item in record for name, value in _plain(asdict(item)).items()} for record in records]
        table = pa.Table.from_pylist(rows, schema.with_metadata({_LAST: b"1"} if last else {}))
        with atomic(path) as temporary:
            pq.write_table(table, temporary)
        return rows

    def finished(self) -> Finished:
        """Which batches have a part."""
        shards, batches = set(), {}
        for shard, numbers in self._numbers():
            if numbers[-1] == len(numbers) - 1 and _LAST in self._metadata(shard, numbers[-1]):
                shards.add(shard)
            else:
                batches[shard] = frozenset(numbers)
        return Finished(frozenset(shards), batches)

    def clean(self) -> None:
        """Removes the incomplete files of processes that died while they wrote a part."""
        for shard in self.folder.glob("*"):
            remove_remains(shard)

    def columns(self, names: Sequence[str]) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        """Shard and rows of every part, in order, with only the columns `names`.

        Raises:
            InputError: a part is damaged, or lacks a column without a default.
        """
        known = {field.name: field for kind in self.kinds for field in fields(kind)}
        for shard, numbers in self._numbers():
            for number in numbers:
                table = self._read(shard, number, names)
                lacking = [known[name] for name in names if name not in table.column_names]
                with _incomplete_reported(self._path(shard, number)):
                    defaults = {field.name: _default(field) for field in lacking}
                yield shard, [defaults | row for row in table.to_pylist()]

    def __iter__(self) -> Iterator[tuple[int, int, list[tuple[Any, ...]]]]:
        """Shard, batch and records of every part, in order, one part at a time.

        Raises:
            InputError: a part is damaged, or lacks a field without a default.
        """
        for shard, numbers in self._numbers():
            for number in numbers:
                rows = self._read(shard, number).to_pylist()
                with _incomplete_reported(self._path(shard, number)):
                    records = [self._record(row) for row in rows]
                yield shard, number, records

    def __bool__(self) -> bool:
        return any(self._numbers())

    def _read(self, shard: int, number: int, columns: Sequence[str] | None = None) -> pa.Table:
        path = self._path(shard, number)
        try:
            return pq.ParquetFile(path).read(columns)
        except pa.ArrowInvalid as error:
            raise _damaged(path) from error

    def _metadata(self, shard: int, number: int) -> Mapping[bytes, bytes]:
        path = self._path(shard, number)
        try:
            return pq.read_metadata(path).metadata or {}
        except pa.ArrowInvalid as error:
            raise _damaged(path) from error

    def _record(self, row: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(_restored(kind, row) for kind in self.kinds)

    def _path(self, shard: int, number: int) -> Path:
        return self.folder / f"{shard:06d}" / f"{number:06d}.parquet"

    def _numbers(self) -> Iterator[tuple[int, list[int]]]:
        """Shards that have parts, in order, with the numbers of the parts, in order."""
        shards = sorted(int(path.name) for path in self.folder.iterdir()) if self.folder.is_dir() else []
        for shard in shards:
            numbers = sorted(int(path.stem) for path in (self.folder / f"{shard:06d}").glob("[0-9]*.parquet"))
            if numbers:
                yield shard, numbers


def begun(folder: Path) -> bool:
    """Whether a folder holds a part, at any depth."""
    return any(folder.rglob("[0-9]*.parquet"))


def _damaged(path: Path) -> InputError:
    return InputError(f"{path} is damaged: remove it and run the same command again, which does its batch again")


class _LackingError(Exception):
    """A part has no value of a field without a default."""


@contextmanager
def _incomplete_reported(path: Path) -> Iterator[None]:
    try:
        yield
    except _LackingError as error:
        raise InputError(
            f"{path} has no column {error}: it is of another version of percep, so choose another folder with "
            "output=FOLDER"
        ) from error


def _default(field: Field[Any]) -> Any:
    """The default of a field, whose value a part lacks.

    Raises:
        _LackingError: it has none.
    """
    if field.default is not MISSING:
        return field.default
    if field.default_factory is not MISSING:
        return field.default_factory()
    raise _LackingError(field.name)


def _columns(kind: type) -> list[tuple[str, pa.DataType]]:
    return [(name, _arrow(hint)) for name, hint in _fields(kind).items()]


def _arrow(kind: Any) -> pa.DataType:
    if get_origin(kind) is tuple:
        return pa.list_(_arrow(get_args(kind)[0]))
    return _SCALARS[kind] if kind in _SCALARS else pa.struct(_columns(kind))


@cache
def _fields(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: _without_none(hints[field.name]) for field in fields(kind)}


def _without_none(hint: Any) -> Any:
    """The other type of a field that may be None."""
    if get_origin(hint) is UnionType:
        (hint,) = (kind for kind in get_args(hint) if kind is not type(None))
    return hint


def _plain(value: Any) -> Any:
    """A value whose strings are valid UTF-8: file names need not be, and error messages contain them."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value.encode("utf-8", "backslashreplace").decode("utf-8") if isinstance(value, str) else value


def _restored(kind: Any, value: Any) -> Any:
    if value is None or kind in _SCALARS:
        return value
    if get_origin(kind) is tuple:
        return tuple(_restored(get_args(kind)[0], item) for item in value)
    hints = _fields(kind)
    return kind(
        **{
            field.name: _restored(hints[field.name], value[field.name]) if field.name in value else _default(field)
            for field in fields(kind)
        }
    )

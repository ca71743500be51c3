"""The output folder of a run: what was asked for is written down in it, and nothing else is done there later."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from percep.errors import InputError
from percep.runs.engine.atomic import is_remains, remove_remains, whole
from percep.runs.engine.checkpoints import begun

_FILE = "run.json"
# Where results are written to and who reads ahead changes no result.
_FREE = ("output", "data.workers")


@dataclass(frozen=True)
class Record:
    """What a run is.

    Attributes:
        command: a line for a shell that repeats it.
        settings: the resolved configuration, nested.
        basis: what results depend on beside the settings, by name: versions, weights, photographs.
        shards: how many the photographs are in.
        photographs: how many there are, where that is known.
        classes: of the model.
    """

    command: str
    settings: Mapping[str, Any]
    basis: Mapping[str, str]
    shards: int
    photographs: int | None
    classes: int | None = None


def is_free(folder: Path) -> bool:
    """Whether a folder holds a run, or nothing: what a process left that died before it had begun is nothing."""
    return (folder / _FILE).is_file() or all(map(is_remains, folder.iterdir()))


def claim(folder: Path, record: Record) -> None:
    """Writes the record into the folder, or finds there that it is the same run.

    A run's parts are in its folder, at any depth.

    Raises:
        InputError: parts are finished of a run that differs.
    """
    remove_remains(folder)
    if (folder / _FILE).is_file() and begun(folder):
        differences = "; ".join(_differences(recorded(folder), record))
        if differences:
            raise InputError(
                f"output folder {folder} holds a run that differs: {differences}: "
                "give the settings of then to continue it, or choose another folder with output=FOLDER"
            )
        return
    with whole(folder / _FILE) as path:
        path.write_text(json.dumps(asdict(record), indent=2) + "\n", encoding="utf-8")


def recorded(folder: Path) -> Record:
    """The run of a folder.

    Raises:
        InputError: there is none.
    """
    try:
        return Record(**json.loads((folder / _FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"output folder {folder} holds no run: give that of a run with output=FOLDER") from error


def _differences(then: Record, now: Record) -> Iterator[str]:
    before, after = (dict(_flat({**record.settings, **record.basis})) for record in (then, now))
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name, "not there"), after.get(name, "not there")
        if old != new and name not in _FREE:
            yield f"{name} was {old} and is {new}"


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, "null" if value is None else str(value)

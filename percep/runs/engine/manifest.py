"""The output folder of a run: what was asked for is written down in it, and nothing else is done there later."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from percep.choices import ATTRIBUTION_NAMES
from percep.errors import InputError
from percep.runs.engine.atomic import atomic, is_remains, remove_remains
from percep.runs.engine.checkpoints import begun

_FILE = "run.json"
# Where results are written to, who reads ahead and what is written beside the report changes no result.
_FREE = ("output", "data.workers", "report.vector")
_FORMER = {"basis": "provenance"}
_FORMER_SETTINGS = {"study": {"rivals": "baselines"}}
"""What keys were called in runs of earlier versions, and settings, by their group."""
_ADDED_SETTINGS: Mapping[str, Mapping[str, Any]] = {"study": {"attributions": [*ATTRIBUTION_NAMES], "strata": []}}
"""Settings that runs of earlier versions lack, by their group, with values that do what these versions did."""


@dataclass(frozen=True)
class Manifest:
    """What a run is.

    Attributes:
        command: a line for a shell that repeats it.
        settings: the resolved configuration, nested.
        provenance: what results depend on beside the settings, by name: versions, weights, photographs.
        shards: how many the photographs are in.
        photographs: how many there are, where that is known.
        classes: of the model.
    """

    command: str
    settings: Mapping[str, Any]
    provenance: Mapping[str, str]
    shards: int
    photographs: int | None
    classes: int | None = None


def is_free(folder: Path) -> bool:
    """Whether a folder holds a run, or nothing: what a process left that died before it had begun is nothing."""
    return (folder / _FILE).is_file() or all(map(is_remains, folder.iterdir()))


def claim(folder: Path, manifest: Manifest) -> None:
    """Writes the manifest into the folder, or finds there that it is the same run, with the settings it has now.

    A run's parts are in its folder, at any depth. Settings that change no result may differ.

    Raises:
        InputError: parts are finished of a run that differs.
    """
    remove_remains(folder)
    if (folder / _FILE).is_file() and begun(folder):
        former = read_manifest(folder)
        differences = "; ".join(_differences(former, manifest))
        if differences:
            raise InputError(
                f"output folder {folder} holds a run that differs: {differences}: "
                "give the settings it was begun with to continue it, or choose another folder with output=FOLDER"
            )
        if former.settings == manifest.settings:
            return
    with atomic(folder / _FILE) as path:
        path.write_text(json.dumps(asdict(manifest), indent=2) + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """The run of a folder; keys and settings of an earlier version have their present names.

    Raises:
        InputError: there is none.
    """
    try:
        content = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        manifest = Manifest(**_renamed(content, _FORMER))
        groups = (_FORMER_SETTINGS.keys() | _ADDED_SETTINGS.keys()) & manifest.settings.keys()
        present = {group: _present(group, manifest.settings[group]) for group in groups}
        return replace(manifest, settings={**manifest.settings, **present})
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"output folder {folder} holds no run: give that of a run with output=FOLDER") from error


def _present(group: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {**_ADDED_SETTINGS.get(group, {}), **_renamed(settings, _FORMER_SETTINGS.get(group, {}))}


def _renamed(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names.get(name, name): value for name, value in values.items()}


def _differences(then: Manifest, now: Manifest) -> Iterator[str]:
    before, after = (dict(_flat({**manifest.settings, **manifest.provenance})) for manifest in (then, now))
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

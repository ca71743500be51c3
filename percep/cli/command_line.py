"""What follows `percep` on a command line, checked before hydra is imported and written as hydra's grammar reads it.

Settings are `key=value`. Hydra's grammar makes numbers, lists and functions of values. The value of a key that is a
path is taken as it is: it is put in quotes here where hydra would read something else.
"""

import difflib
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from percep.errors import InputError
from percep.runs import TASKS
from percep.runs.config import Config

_PACKAGE = Path(__file__).parents[1]
# `conf/` lies beside the package in a checkout, and is copied into it when a wheel is built.
CONFIGURATION = next(folder for folder in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if folder.is_dir())
DEFAULT_TASK = "attack"
"""As `conf/config.yaml` has it."""

PATHS = ("data.path", "data.labels", "model.checkpoint", "model.categories", "output")
"""Keys whose values are paths."""

_FLAGS = ("--help", "-h", "--hydra-help", "--version", "--resolve", "--run", "-r", "--multirun", "-m")
_FLAGS_WITH_A_VALUE = ("--cfg", "-c", "--package", "-p", "--info", "-i")
_COMPLETION = ("--shell-completion", "-sc")
# With these the groups and the keys are not, or not only, those of `conf/`.
_ELSEWHERE = ("--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd", "--experimental-rerun")

_OVERRIDE = re.compile(r"(?P<prefix>\+\+|\+|~)?(?P<key>[^=]*)=(?P<value>.*)", re.DOTALL)
_QUOTED = re.compile(r""""(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'""", re.DOTALL)
_SWEEP = re.compile(r"(?:choice|range|interval|glob|shuffle|sort|tag)\(.*\)", re.DOTALL)
# Of these characters hydra's grammar makes a string, unless they are a number or a keyword.
_PLAIN = re.compile(r"[A-Za-z0-9_./-]+")
_NOT_TEXT = re.compile(r"-?(?:inf|nan|[0-9._]*[0-9][0-9._]*(?:e-?[0-9_]+)?)|true|false|null", re.IGNORECASE)


@dataclass(frozen=True)
class CommandLine:
    """A checked command line.

    Attributes:
        arguments: for hydra.
        settings: those of the arguments that are `key=value`, in order.
        help: the help text is asked for.
        version: the version is asked for, and no help.
        sweeps: each combination of values is a run of its own.
        runs: something is run, not only shown.
        checked: keys and choices are those of `conf/`.
        plain: a run of the command's own settings, of which none concerns hydra.
    """

    arguments: tuple[str, ...]
    settings: tuple[str, ...]
    help: bool
    version: bool
    sweeps: bool
    runs: bool
    checked: bool

    @property
    def plain(self) -> bool:
        return self.runs and self.checked and self.arguments == self.settings and "hydra" not in "".join(self.settings)


def read(arguments: Sequence[str]) -> CommandLine:
    """Reads and checks what follows `percep`.

    Raises:
        InputError: an unknown option, a word that is no setting, an unknown key or choice, or several choices in a run.
    """
    flags, settings = _separated(arguments)
    if flags & {*_COMPLETION}:
        return CommandLine(tuple(arguments), (), False, False, False, False, False)
    sweeps = bool(flags & {"--multirun", "-m"}) or "hydra.mode=MULTIRUN" in settings
    known = not flags & {*_ELSEWHERE} and not any("hydra.searchpath" in setting for setting in settings)
    if known:
        _check(settings, sweeps)
    written = {setting: _written(setting, sweeps) for setting in settings}
    return CommandLine(
        tuple(written.get(argument, argument) for argument in arguments),
        tuple(written[setting] for setting in settings),
        bool(flags & {"--help", "-h"}),
        "--version" in flags and not flags & {"--help", "-h"},
        sweeps,
        not flags & {"--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--info", "-i"},
        known,
    )


def choices(group: str) -> list[str]:
    """The choices of a group of `conf/`."""
    return sorted(path.stem for path in (CONFIGURATION / group).glob("*.yaml"))


def groups() -> list[str]:
    """The groups of `conf/`, without hydra's."""
    return sorted(path.name for path in CONFIGURATION.iterdir() if path.is_dir() and path.name != "hydra")


def chosen(settings: Iterable[str], group: str) -> str | None:
    """The choice of a group on a command line, the last one if there are several."""
    found = [match["value"] for match in map(_OVERRIDE.fullmatch, settings) if match and match["key"] == group]
    return _unquoted(found[-1]) if found else None


def quoted(value: str) -> str:
    """A value in the quotes of hydra's grammar, which then reads it as it is.

    Backslashes count only before a quote and at the end: there they are doubled.
    """
    escaped = re.sub(r'(\\*)("|\Z)', lambda found: found[1] * 2 + ('\\"' if found[2] else ""), value)
    return f'"{escaped}"'


def unknown_key(full_key: str, known: Sequence[str]) -> str:
    """What to say of a key that is none of those known where it is."""
    key = full_key.rpartition(".")[2]
    close = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {close[0]}? " if close else _task_hint(full_key)
    return f"unknown key {full_key}: {hint}known are {', '.join(known)}"


def _task_hint(key: str) -> str:
    tasks = [f"task={name}" for name, task in TASKS.items() if key in _names(task.config)]
    return f"it belongs to {' or '.join(tasks)}; " if tasks else ""


def _separated(arguments: Sequence[str]) -> tuple[set[str], list[str]]:
    """Options, by the names they have, and settings."""
    flags: set[str] = set()
    settings: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("-"):
            settings.append(argument)
            continue
        name, given, _ = argument.partition("=")
        flag = _full(name)
        flags.add(flag)
        if flag in _FLAGS_WITH_A_VALUE + _ELSEWHERE and not given and rest and not rest[0].startswith("-"):
            rest.pop(0)
    return flags, settings


def _full(name: str) -> str:
    """The option that is meant, which may be shortened."""
    known = (*_FLAGS, *_FLAGS_WITH_A_VALUE, *_COMPLETION, *_ELSEWHERE)
    if name in known:
        return name
    meant = [flag for flag in known if name.startswith("--") and len(name) > 2 and flag.startswith(name)]
    if meant:
        return meant[0]
    key = name.lstrip("-")
    if key.partition(".")[0] in {name for task in TASKS.values() for name in _names(task.config)}:
        raise InputError(f"unknown option {name}: settings have no dashes, {key}=VALUE")
    raise InputError(
        f"unknown option {name}: options are -h or --help, --version, -m for a sweep and --cfg job; settings are "
        "key=value, see --help"
    )


def _check(settings: Sequence[str], sweeps: bool) -> None:
    parsed = list(_parsed(settings))
    available = {group: choices(group) for group in groups()}
    tasks = [DEFAULT_TASK]  # none where hydra has to work them out, which then finds unknown keys as well
    for prefix, key, value in parsed:
        if key.startswith("hydra.sweeper.params"):
            tasks = []
        if key not in available or prefix == "~" or value.startswith("{"):
            continue
        found = _choices_of(key, value, sweeps)
        for name in found:
            if name not in available[key]:
                close = difflib.get_close_matches(name, available[key], n=1)
                hint = f"did you mean {close[0]}? " if close else ""
                raise InputError(
                    f"unknown {key} {name!r}: {hint}Available options in {key!r}: {' '.join(available[key])}"
                )
        if key == "task":
            tasks = found
    for prefix, key, _ in parsed:
        if key == "hydra" or key.startswith(("hydra.", "hydra/")) or re.search("[@:/]", key):
            continue
        if prefix == "~" or (key in available and key != "study"):
            continue
        for task in tasks:
            _check_key(TASKS[task].config, key)


def _parsed(settings: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """Prefix, key and value of each setting."""
    for setting in settings:
        match = _OVERRIDE.fullmatch(setting)
        if match is not None and match["key"]:
            yield match["prefix"] or "", match["key"], match["value"]
        elif setting in TASKS:
            raise InputError(f"{setting!r} is no setting: did you mean task={setting}?")
        elif not setting.startswith("~"):
            raise InputError(
                f"{setting!r} is no setting: settings are key=value, such as data.path=PHOTOS, without spaces around "
                "=; percep --help names them"
            )


def _choices_of(group: str, value: str, sweeps: bool) -> list[str]:
    """The choices that are named; none where hydra has to work them out."""
    if value.startswith("["):
        raise InputError(
            f"{group}={value} is a list, and a run has one {group}: percep -m {group}={value.strip('[] ')} runs each"
        )
    if _SWEEP.fullmatch(value) or "${" in value:
        return []
    found = _elements(value)
    if len(found) > 1 and not sweeps:
        raise InputError(
            f"{group}={value} names several, and a run has one {group}: percep -m {group}={value} runs each"
        )
    for element in found:
        if element.startswith("["):
            raise InputError(f"{group}={element} is a list, and a run has one {group}: name them without brackets")
    return [_unquoted(element) for element in found if not element.startswith("{")]


def _check_key(task: type[Config], key: str) -> None:
    """Raises InputError unless the key is one of the task's."""
    kind: object = task
    parts = key.split(".")
    for depth, part in enumerate(parts):
        if not (isinstance(kind, type) and is_dataclass(kind)):
            return  # of a list or a mapping, or below a value, which the schema will find
        known = _names(kind)
        if part not in known:
            raise InputError(unknown_key(".".join(parts[: depth + 1]), known))
        kind = get_type_hints(kind)[part]


def _names(kind: Any) -> list[str]:
    return [field.name for field in fields(kind)]


def _written(setting: str, sweeps: bool) -> str:
    """A setting as hydra's grammar is to read it."""
    match = _OVERRIDE.fullmatch(setting)
    if match is None or match["key"] not in PATHS or match["prefix"] == "~":
        return setting
    value = match["value"]
    if not sweeps:
        written = _path(match["key"], value)
    elif _SWEEP.fullmatch(value):
        return setting
    else:
        written = ",".join(_path(match["key"], element) for element in _elements(value))
    return f"{match['prefix'] or ''}{match['key']}={written}"


def _path(key: str, value: str) -> str:
    """A path as hydra's grammar is to read it: without change where it does, or in quotes."""
    literal = _unquoted(value)
    if not literal:
        raise InputError(f"{key} is empty: give {key}=PATH")
    expanded = os.path.expanduser(literal)
    if expanded == literal and (literal != value or value == "null"):
        return value
    plain = _PLAIN.fullmatch(expanded) and not _NOT_TEXT.fullmatch(expanded)
    return expanded if plain else quoted(expanded)


def _unquoted(value: str) -> str:
    """What hydra reads of a value in quotes; another one as it is."""
    if not _QUOTED.fullmatch(value):
        return value
    mark = value[0]
    return re.sub(rf"(\\+)({mark}|\Z)", lambda found: "\\" * (len(found[1]) // 2) + found[2], value[1:-1])


def _elements(value: str) -> list[str]:
    """What commas separate, but for those in quotes and brackets."""
    found, start, depth, place = [], 0, 0, 0
    while place < len(value):
        if not value[start:place].strip() and (quotes := _QUOTED.match(value, place)):
            place = quotes.end()
            continue
        character = value[place]
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth <= 0:
            found.append(value[start:place])
            start = place + 1
        place += 1
    found.append(value[start:])
    return [element.strip() for element in found] if len(found) > 1 else found


def in_a_shell(setting: str) -> str:
    """A setting whose value is put into quotes of hydra's grammar, as one types it."""
    key, _, value = setting.partition("=")
    return shlex.quote(f"{key}={quoted(value)}")

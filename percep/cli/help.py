"""The text of `percep --help`: the template that `conf/config.yaml` has for hydra, filled in without hydra's import."""

import re
from collections.abc import Sequence
from pathlib import Path
from string import Template
from textwrap import wrap
from typing import Any

import yaml

from percep.choices import BASELINES, OURS, ROUNDING_BASELINES
from percep.cli.command_line import CONFIGURATION, DEFAULT_TASK, choices, chosen, groups

_COLUMN, _WIDTH = 21, 114
"""Where the template's column of descriptions begins, and where its lines end."""


def help_text(settings: Sequence[str]) -> str:
    """The text, with the defaults of the task, the model, the photographs and the study that the settings choose.

    Where they choose several, or what is not in `conf/`, those of a run without settings are shown.
    """
    main = _read(CONFIGURATION / "config.yaml")
    available = "".join(f"{group}: {', '.join(choices(group))}\n" for group in groups())
    template = Template(main.pop("hydra")["help"]["template"])
    return template.substitute(
        APP_CONFIG_GROUPS=available,
        ATTACKS=f"\n{' ' * _COLUMN}".join(wrap(", ".join((OURS, *BASELINES)), _WIDTH - _COLUMN)),
        UNROUNDED=", ".join(name for name in BASELINES if name not in ROUNDING_BASELINES),
        CONFIG=_defaults(main, settings),
    )


def _defaults(main: dict[str, Any], settings: Sequence[str]) -> str:
    """The files that are chosen, as one: a task's is at the top, that of another group below the group's name."""
    task = _read(CONFIGURATION / "task" / f"{_choice(settings, 'task', DEFAULT_TASK)}.yaml")
    nested = _groups(main.pop("defaults")) | _groups(task.pop("defaults"))
    for group, choice in nested.items():
        main[group] = _read(CONFIGURATION / group / f"{_choice(settings, group, choice)}.yaml")
    return yaml.safe_dump(main | task, sort_keys=False, default_flow_style=None, width=120)


def _choice(settings: Sequence[str], group: str, default: str) -> str:
    found = chosen(settings, group)
    return found if found in choices(group) else default


def _groups(defaults: Sequence[str | dict[str, str]]) -> dict[str, str]:
    """The groups of a list of defaults, but for the task and hydra's own, and the choice of each."""
    found = {
        name.lstrip("/"): choice for entry in defaults if isinstance(entry, dict) for name, choice in entry.items()
    }
    return {name: choice for name, choice in found.items() if name in groups() and name != "task"}


def _read(path: Path) -> dict[str, Any]:
    """The content of a file; a default that another key may replace is what it is without that key."""
    text = re.sub(r"\$\{unless:\w+,([^{}]*)\}", r"\1", path.read_text(encoding="utf-8"))
    content: dict[str, Any] = yaml.safe_load(text)
    return content

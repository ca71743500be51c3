"""A report's page: one file that loads nothing, with the facts of its run."""

import base64
import hashlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from percep.environment import versions
from percep.report.common.columns import number, ssim, words


@dataclass(frozen=True)
class Facts:
    """What a report says of its run.

    Attributes:
        command: a line for a shell that repeats the run.
        settings: the resolved configuration, nested; `task`, `model.name` and `seed` are among its keys.
        planned: how many photographs the run set out to do; a report of fewer says it was interrupted. None for a run
            that was interrupted before that was known.
    """

    command: str
    settings: Mapping[str, object]
    planned: int | None


def save_page(path: Path, template: str, facts: Facts, **content: object) -> None:
    """Writes a page from one of the templates, with style, script, settings and versions.

    Args:
        path: the file to write.
        template: extends `page.html`.
        facts: of the run.
        content: what else the template names.
    """
    script = _source("script.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    _ENVIRONMENT.get_template(template).stream(
        facts=facts,
        settings=_flat(facts.settings),
        versions=versions(),
        style=_source("style.css"),
        script=script,
        script_hash=f"sha256-{digest}",
        **content,
    ).dump(str(path), encoding="utf-8", errors="backslashreplace")


def _flat(settings: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """Nested settings by dotted key, written as on the command line."""
    flat: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = "null" if value is None else str(value)
    return flat


def _unbroken(sentence: str) -> Markup:
    """Text in which numbers such as 5e-06 and differences such as 1 − SSIM stay on one line."""
    kept = r'<span class="unbroken">\g<0></span>'
    return Markup(re.sub(r"\d\S*e-\d+|1 − (mean )?SSIM", kept, str(escape(sentence))))


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("percep.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[..., str]] = {
        "file": lambda name: f"adversarial/{quote(os.fsencode(name))}.png",
        "number": number,
        "percent": lambda share: f"{share:.1%}",
        "ssim": ssim,
        "unbroken": _unbroken,
        "words": words,
    }
    environment.filters |= filters
    return environment


_ENVIRONMENT = _environment()


def _source(name: str) -> Markup:
    """A style sheet or a script of the templates, which holds nothing of a run and is not escaped."""
    assert _ENVIRONMENT.loader is not None
    return Markup(_ENVIRONMENT.loader.get_source(_ENVIRONMENT, name)[0])

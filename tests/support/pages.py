"""What Markdown pages promise: Python that runs, the output shown below it, and commands that exist."""

import io
import re
import shlex
from contextlib import redirect_stdout
from pathlib import Path

from hydra import compose, initialize_config_dir

from percep.runs.settings import validated

ROOT = Path(__file__).parents[2]
LANGUAGES = {"python", "sh", "text", "console"}
"""Of fenced blocks: `python` runs, commands of `sh` are checked, `text` and `console` are neither."""

_FENCE = re.compile(r'^```(\w*)(?: title="([^"]*)")?\n(.*?)^```$', re.DOTALL | re.MULTILINE)


def fences(page: Path) -> list[tuple[str, str, str]]:
    """Language, title and text of every fenced block."""
    return [(found[1], found[2] or "", found[3]) for found in _FENCE.finditer(page.read_text())]


def run(page: Path) -> tuple[dict, list[tuple[str, str]]]:
    """The names a page's Python leaves, and pairs of what a block printed and what is shown below it."""
    scope: dict = {}
    pairs: list[tuple[str, str]] = []
    printed = ""
    for language, title, text in fences(page):
        if language == "python" and not title:  # titled blocks are files, included
            with redirect_stdout(io.StringIO()) as output:
                exec(compile(text, page.name, "exec"), scope)
            printed = output.getvalue()
        elif title == "prints":
            pairs.append((printed, text))
    return scope, pairs


def commands(page: Path) -> list[list[str]]:
    """The arguments of every `percep` command of a page."""
    return [
        shlex.split(line, comments=True)[1:]
        for language, _, text in fences(page)
        if language == "sh"
        for line in text.replace("\\\n", " ").splitlines()
        if line.startswith("percep")
    ]


def check(arguments: list[str]) -> None:
    """Composes and validates what a command asks for; of a sweep its first run."""
    if "--help" in arguments:
        return
    sweep = "-m" in arguments
    values = [value.split(",")[0] if sweep else value for value in arguments if value != "-m"]
    output = [] if any(value.startswith("output=") for value in values) else ["output=unused"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        validated(compose("config", [*values, *output]))

"""What a task of the command is, and what a command line asks of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from percep.runs.config import Config


@dataclass(frozen=True)
class Request:
    """What a command line asks for, beside a configuration.

    Attributes:
        command: a line for a shell that repeats it.
        settings: the resolved configuration, nested.
        folder: where the outputs go; it need not be there.
        names_folder: whether the command line says which.
    """

    command: str
    settings: Mapping[str, Any]
    folder: Path
    names_folder: bool


@dataclass(frozen=True)
class Task:
    """A task of the command: `percep.runs.TASKS` lists them, and `conf/task/NAME.yaml` has the defaults of each.

    Functions are named, "MODULE.NAME", and imported when they are called: a command line is checked without torch.

    Attributes:
        config: the type of its configuration.
        does: does the task, of a configuration and a `Request`, and returns the lines to print: none in the processes
            that leave it to the first.
        merges: of a run's folder, finished or not, writes its tables and its report, and returns what is to be said;
            None for a task without parts.
    """

    config: type[Config]
    does: str
    merges: str | None = None

    def run(self, config: Config, request: Request) -> Sequence[str]:
        """Does the task.

        Raises:
            PercepError: what was asked for cannot be had.
            OSError: a file cannot be read or written.
        """
        lines: Sequence[str] = _named(self.does)(config, request)
        return lines

    def merge(self, folder: Path) -> str:
        """Writes what a run has finished; of a task that has parts.

        Raises:
            InputError: no run, or a damaged part.
            OSError: a file cannot be written.
        """
        assert self.merges is not None  # no other task leaves parts
        words: str = _named(self.merges)(folder)
        return words


def _named(name: str) -> Any:
    module, _, function = name.rpartition(".")
    return getattr(import_module(module), function)

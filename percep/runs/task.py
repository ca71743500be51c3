"""What a task of the command is, and what a command line asks of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from percep.errors import InputError
from percep.runs.config import Config


@dataclass(frozen=True)
class Request:
    """What a command line asks for, beside a configuration.

    Attributes:
        command: a line for a shell that repeats it.
        settings: the resolved configuration, nested.
        folder: where the outputs go; it need not be there.
        output: the value of `output` that continues the run: `folder`, or that of a sweep.
        names_folder: whether the command line says which.
    """

    command: str
    settings: Mapping[str, Any]
    folder: Path
    output: str
    names_folder: bool


@dataclass(frozen=True)
class Task:
    """A task of the command: `percep.runs.TASKS` lists them, and `conf/task/NAME.yaml` has the defaults of each.

    What does it is named, "MODULE.NAME", and imported when it is called: a command line is checked without torch.

    Attributes:
        config: the type of its configuration.
        does: a function of a configuration and a `Request` that returns the lines to print.
    """

    config: type[Config]
    does: str

    def run(self, config: Config, request: Request) -> Sequence[str]:
        """Does the task, and returns the lines to print: none in the processes that leave it to the first.

        Raises:
            PercepError: what was asked for cannot be had.
            OSError: a file cannot be read or written.
        """
        lines: Sequence[str] = self._named()(config, request)
        return lines

    def merge(self, folder: Path) -> str:
        """Writes the tables and the report of what a run has finished, and returns what is to be said of it.

        Raises:
            InputError: no run, a damaged part, or a task without parts.
            OSError: a file cannot be written.
        """
        raise InputError(f"output folder {folder} is of a task without parts: there is nothing to merge")

    def _named(self) -> Any:
        module, _, name = self.does.rpartition(".")
        return getattr(import_module(module), name)


@dataclass(frozen=True)
class ResumableTask(Task):
    """A task over photographs, which is interrupted, continued, merged and shared by processes.

    Attributes:
        does: a `percep.runs.engine.campaign.Campaign`, which the engine runs.
    """

    def run(self, config: Config, request: Request) -> Sequence[str]:
        """See `Task.run`."""
        from percep.runs.engine.run import run  # noqa: PLC0415  torch, and all else that takes seconds

        return run(self._named(), config, request)

    def merge(self, folder: Path) -> str:
        """See `Task.merge`."""
        words: str = self._named().merge(folder)
        return words

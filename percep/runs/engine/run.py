"""A run in its folder: by one process or by several, from its beginning or from where it was left."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from omegaconf import OmegaConf

from percep.errors import InputError
from percep.runs.config import Config
from percep.runs.engine.distributed import Processes, join
from percep.runs.engine.manifest import is_free
from percep.runs.task import Request

C = TypeVar("C", bound=Config)

Campaign = Callable[[], str]
"""Does what is left of a run and merges it; returns what is to be said of all of it."""


def run(begin: Callable[[C, Path, Processes, Request], Campaign], config: C, request: Request) -> Sequence[str]:
    """Runs what one process does, or several.

    Args:
        begin: takes the configuration, with this process's device, the folder, which may hold what was done before, the
            processes and the request.
        config: of the task.
        request: of the command line.

    Returns:
        The lines to print, in the first process.

    Raises:
        InputError: a folder of something else.
        PercepError: what the campaign raises.
    """
    processes = join(config.device)
    folder = processes.first(lambda: _folder(request, processes.world))
    campaign = begin(replace(config, device=processes.device(config.device)), folder, processes, request)
    if processes.rank == 0:
        save_settings(folder, request)
    try:
        words = campaign()
    except KeyboardInterrupt as error:
        error.add_note(f"what is finished is in {folder}, and the same command with output={folder} continues")
        raise
    return said(words, folder) if processes.rank == 0 else ()


def said(words: str, folder: Path) -> Sequence[str]:
    """What is said of a run, and where its outputs are."""
    return words, f"Outputs are in {folder}"


def save_settings(folder: Path, request: Request) -> None:
    """Writes `config.yaml`, the resolved configuration."""
    OmegaConf.save(OmegaConf.create(dict(request.settings)), folder / "config.yaml")


def made(folder: Path) -> Path:
    """The folder, made if it is not there.

    Raises:
        InputError: a name that is not UTF-8, or a folder that cannot be made.
    """
    try:
        str(folder).encode()
    except UnicodeEncodeError as error:  # which Parquet's files need, and torch's store
        raise InputError(f"output folder {str(folder)!a} is not UTF-8: choose another with output=FOLDER") from error
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"output folder {folder} cannot be made ({error.strerror}): choose another with output=FOLDER"
        ) from error
    return folder


def _folder(request: Request, world: int) -> Path:
    """The folder of a run, which may have been begun there."""
    if world > 1 and not request.names_folder:
        raise InputError("several processes need a folder that a later command can continue: give output=FOLDER")
    folder = made(request.folder)
    if not is_free(folder):
        raise InputError(f"output folder {folder} is not empty: choose another with output=FOLDER")
    return folder

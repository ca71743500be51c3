"""A run in its folder: by one process or by several, from its beginning or from where it was left."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from omegaconf import OmegaConf

from percep.environment import provenance
from percep.errors import InputError, PercepError
from percep.models.classifier import number_of_logits
from percep.runs.engine.campaign import C, Campaign
from percep.runs.engine.checkpoints import begun
from percep.runs.engine.distributed import join
from percep.runs.engine.manifest import Manifest, claim, is_free
from percep.runs.engine.progress import Tally
from percep.runs.engine.worker import UnreadableError, Worker
from percep.runs.task import Request


def run(kind: type[Campaign[C]], config: C, request: Request) -> Sequence[str]:
    """Runs a task, by this process or by several.

    Args:
        kind: of the task.
        config: of the task.
        request: of the command line.

    Returns:
        The lines to print, in the first process.

    Raises:
        InputError: a folder of something else.
        PercepError: what the task raises.
    """
    processes = join(config.device)
    folder = processes.first(lambda: _folder(request, processes.world))
    own = replace(config, device=processes.device(config.device))
    campaign = processes.in_turn(lambda: kind(own, folder))
    entries = processes.first(lambda: _begin(campaign, request))
    tally = Tally(processes, config.task, campaign.passes * len(campaign.photographs.shards))
    tally.count = None if entries is None else campaign.passes * entries
    if processes.rank == 0:
        _save_settings(folder, request)
    try:
        _work(campaign, Worker(processes, tally, config.data.workers))
        words = processes.first(lambda: kind.merge(folder))
    except KeyboardInterrupt as error:
        error.add_note(f"what is finished is in {folder}, and the same command with output={folder} continues")
        raise
    return said(words, folder) if processes.rank == 0 else ()


def _begin(campaign: Campaign[C], request: Request) -> int | None:
    """Writes down what the run is; how many rows its photographs have, where that is known."""
    if not begun(campaign.folder):
        campaign.check()
    known = campaign.photographs.inventory()
    depends = provenance(campaign.model, known.digest, campaign.config.device, campaign.config.model.network)
    shards, classes = len(campaign.photographs.shards), number_of_logits(campaign.model)
    claim(campaign.folder, Manifest(request.command, request.settings, depends, shards, known.count, classes))
    return known.entries


def _work(campaign: Campaign[C], worker: Worker) -> None:
    """Does what is left; what was done before an interruption, or of what can be read, is merged."""
    try:
        try:
            campaign.work(worker)
        finally:
            worker.show_last()
    except UnreadableError:  # which all processes meet
        worker.processes.first(lambda: _merge_if_possible(campaign))
        raise
    except BaseException:
        if worker.processes.world == 1:
            _merge_if_possible(campaign)
        raise


def _merge_if_possible(campaign: Campaign[C]) -> None:
    if begun(campaign.folder):
        with suppress(OSError, PercepError):  # a full disk, or parts that say nothing yet: what is raised says why
            campaign.merge(campaign.folder)


def said(words: str, folder: Path) -> Sequence[str]:
    """What is said of a run, and where its outputs are."""
    return words, f"Outputs are in {folder}"


def _save_settings(folder: Path, request: Request) -> None:
    """Writes `config.yaml`, the resolved configuration."""
    OmegaConf.save(OmegaConf.create(dict(request.settings)), folder / "config.yaml")


def _made(folder: Path) -> Path:
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
    folder = _made(request.folder)
    if not is_free(folder):
        raise InputError(f"output folder {folder} is not empty: choose another with output=FOLDER")
    return folder

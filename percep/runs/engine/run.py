"""A run in its folder, by one process or by several: a new one, or an interrupted one that is continued."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from omegaconf import OmegaConf

from percep.environment import provenance
from percep.errors import InputError, PercepError, UnavailableError
from percep.models.classifier import number_of_logits
from percep.runs.engine.atomic import atomic
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
        The lines to print; none but in the first process.

    Raises:
        InputError: the folder cannot be made, or is not empty and holds no run.
        PercepError: what the task raises.
    """
    processes = join(config.device)
    folder = processes.first(lambda: _folder(request, processes.world))
    own = replace(config, device=processes.device(config.device))
    campaign = processes.in_turn(lambda: kind(own, folder))
    num_rows = processes.first(lambda: _begin(campaign, request))
    tally = Tally(processes, config.task, campaign.passes * len(campaign.photographs.shards), campaign.passes)
    tally.count = None if num_rows is None else campaign.passes * num_rows
    if processes.rank == 0:
        _save_settings(folder, request)
    try:
        _work(campaign, Worker(processes, tally, config.data.workers))
        sentences = processes.first(lambda: kind.merge(folder))
    except KeyboardInterrupt as error:
        again = f"the same command with output={request.output} continues"
        error.add_note(f"what is finished is in {folder}, and {again}")
        raise
    return closing_lines(sentences, folder) if processes.rank == 0 else ()


def _begin(campaign: Campaign[C], request: Request) -> int | None:
    """Writes the manifest; returns the number of rows of the photographs, None if unknown."""
    if not begun(campaign.folder):
        campaign.check()
    known = campaign.photographs.inventory()
    network = campaign.config.model.network
    depends_on = provenance(campaign.model, known.digest, campaign.config.device, network) | campaign.depends_on()
    shards, classes = len(campaign.photographs.shards), number_of_logits(campaign.model)
    claim(campaign.folder, Manifest(request.command, request.settings, depends_on, shards, known.count, classes))
    return known.entries


def _work(campaign: Campaign[C], worker: Worker) -> None:
    """Does the remaining work; after an error the finished batches are merged, so that they can be looked at."""
    try:
        try:
            campaign.work(worker)
        except BaseException:
            with suppress(UnavailableError):  # the counters are gone: what ended the run is the error to report
                worker.tally.end()
            raise
        worker.tally.end()
    except UnreadableError:  # raised in all processes
        worker.processes.first(lambda: _merge_if_possible(campaign))
        raise
    except BaseException:
        if worker.processes.world == 1:
            _merge_if_possible(campaign)
        raise


def _merge_if_possible(campaign: Campaign[C]) -> None:
    if begun(campaign.folder):
        with suppress(OSError, PercepError):  # a full disk, no result yet: the original error is the one to report
            campaign.merge(campaign.folder)


def closing_lines(sentences: str, folder: Path) -> Sequence[str]:
    """The result of a run in sentences, and where its outputs are."""
    return sentences, f"Outputs are in {folder}"


def _save_settings(folder: Path, request: Request) -> None:
    """Writes `config.yaml`, the resolved configuration."""
    with atomic(folder / "config.yaml") as path:
        OmegaConf.save(OmegaConf.create(dict(request.settings)), path)


def _make(folder: Path) -> Path:
    """Makes the folder if it does not exist, and returns it.

    Raises:
        InputError: a name that is not UTF-8, or a folder that cannot be made.
    """
    try:
        str(folder).encode()
    except UnicodeEncodeError as error:  # Parquet files and torch's store need UTF-8
        raise InputError(f"output folder {str(folder)!a} is not UTF-8: choose another with output=FOLDER") from error
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"output folder {folder} cannot be made ({error.strerror}): choose another with output=FOLDER"
        ) from error
    return folder


def _folder(request: Request, world: int) -> Path:
    """The folder of a new run, or of one that was begun there."""
    if world > 1 and not request.names_folder:
        raise InputError("several processes need a folder that a later command can continue: give output=FOLDER")
    folder = _make(request.folder)
    if not is_free(folder):
        raise InputError(f"output folder {folder} is not empty: choose another with output=FOLDER")
    return folder

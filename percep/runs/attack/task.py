"""task=attack and task=minimal over all their photographs, by one process or several, from where they were left."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Generic

from percep.data.shards import share
from percep.environment import provenance
from percep.report import ImageRow, exhibit
from percep.runs.attack.batch import BallRun, C, MinimalRun, Outcome, Run
from percep.runs.attack.outputs import OVERVIEW, Pictures, merge, merged, packed, parts_of
from percep.runs.config import AttackTask, MinimalTask
from percep.runs.engine.batches import Batch, Finished
from percep.runs.engine.distributed import Processes
from percep.runs.engine.launch import SharedError
from percep.runs.engine.manifest import Record, claim
from percep.runs.engine.progress import Tally
from percep.runs.engine.run import run
from percep.runs.engine.worker import count_finished, drive, mending
from percep.runs.task import Request

_OUTCOME = ("name", "status", "label", "predicted_before", "success")
"""What says of a row whether the model was fooled."""


def attack(config: AttackTask, request: Request) -> Sequence[str]:
    """task=attack: photographs attacked inside a ball."""
    return run(partial(Campaign, BallRun), config, request)


def minimal(config: MinimalTask, request: Request) -> Sequence[str]:
    """task=minimal: photographs changed as little as the goal allows."""
    return run(partial(Campaign, MinimalRun), config, request)


class Campaign(Generic[C]):
    """A run in its folder, which it continues if it was begun.

    Args:
        kind: of attack.
        config: what to attack, and how; `device` is this process's.
        folder: empty, or of the same run.
        processes: which share the run.
        request: of the command line.

    Raises:
        InputError: a model, checkpoint, device, path or label that is not usable, or a folder of another run.
        UnavailableError: weights or a device that cannot be had here.
    """

    def __init__(
        self,
        kind: type[Run[C]],
        config: C,
        folder: Path,
        processes: Processes,
        request: Request,
    ) -> None:
        self.config, self.folder, self.processes = config, folder, processes
        self.parts = parts_of(folder, config.task)
        self.run = processes.in_turn(lambda: kind(config, folder))
        self.shards = len(self.run.photographs.shards)
        self.tally = Tally(processes, config.task, self.shards)
        self.finished, self.tally.count = processes.first(lambda: self._claim(request))

    def __call__(self) -> str:
        """Does what is left, and merges the parts; what was done before an interruption is merged as well.

        Returns:
            What is to be said of all photographs.

        Raises:
            SharedError: a label or target that is not a class, or a layer for Grad-CAM that the network does not have;
                a shard that cannot be read to its end, once all else is done.
        """
        try:
            problems = drive(self._work, self.run.photographs, self.config, self.finished, self.parts, self.tally)
        except BaseException:
            if self.processes.world == 1 and self.parts:
                self._merge_if_possible()
            raise
        words = self.processes.first(lambda: merged(self.folder))
        if problems:
            raise SharedError(f"{mending(problems)}; all else is done")
        return words

    def _merge_if_possible(self) -> None:
        try:
            merge(self.folder)
        except OSError:  # the disk that is full, perhaps: the parts are there, and what is raised already says why
            return

    def _claim(self, request: Request) -> tuple[Finished, int | None]:
        survey = self.run.photographs.inventory()
        depends = provenance(self.run.model, survey.digest, self.config.device, self.config.model.network)
        claim(
            self.folder, Record(request.command, request.settings, depends, self.shards, survey.count, self.run.classes)
        )
        return count_finished(self.parts, self.tally, _OUTCOME, lambda row: ImageRow(**row).fooled), survey.entries

    def _work(self, batch: Batch) -> tuple[list[tuple[ImageRow, Pictures]], int]:
        places = range(batch.first, batch.first + len(batch.photographs))
        quota = share(self.config.pictures, self.shards, batch.shard)
        outcomes = self.run(batch.read(), [place < quota for place in places])
        few = share(OVERVIEW, self.shards, batch.shard)
        records = [
            (outcome.row, _pictures(outcome, place < few)) for place, outcome in zip(places, outcomes, strict=True)
        ]
        return records, sum(outcome.row.fooled for outcome in outcomes)


def _pictures(outcome: Outcome, overview: bool) -> Pictures:
    if outcome.panel is None:
        return Pictures()
    return Pictures(exhibit(outcome.panel), packed(outcome.panel) if overview else None)

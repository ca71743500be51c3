"""task=attack and task=minimal over all their photographs, by one process or several, from where they were left."""

import hashlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch

from percep import kernels
from percep.config import AttackTask, MinimalTask
from percep.errors import InputError
from percep.merge import OVERVIEW, Pictures, merge, packed, parts_of
from percep.models import Classifier
from percep.report import ImageRow, exhibit, versions
from percep.run import Outcome, Run
from percep.scale.batches import Batch, Batches, Finished
from percep.scale.drive import drive
from percep.scale.folder import Record, claim
from percep.scale.processes import ElsewhereError, Processes
from percep.scale.progress import Tally
from percep.streams import share


class Campaign:
    """A run in its folder, which it continues if it was begun.

    Args:
        config: what to attack, and how; `device` is this process's.
        folder: empty, or of the same run.
        processes: which share the run.
        command: a line for a shell that repeats the run.
        settings: the resolved configuration, nested.

    Raises:
        InputError: a model, checkpoint, device, path or label that is not usable, or a folder of another run.
        UnavailableError: weights or a device that cannot be had here.
    """

    def __init__(
        self,
        config: AttackTask | MinimalTask,
        folder: Path,
        processes: Processes,
        command: str,
        settings: Mapping[str, object],
    ) -> None:
        self.config, self.folder, self.processes = config, folder, processes
        self.parts = parts_of(folder, config.task)
        loaded: list[Run] = []
        # The first process alone, so that weights are downloaded once and an error is met once.
        processes.first(lambda: loaded.append(Run(config, folder)))
        self.run = loaded[0] if loaded else Run(config, folder)
        self.shards = len(self.run.photographs.shards)
        self.tally = Tally(processes, config.task, self.shards)
        self.finished, self.tally.count = processes.first(lambda: self._claim(command, settings))

    def __call__(self) -> Mapping[str, object]:
        """Does what is left, and merges the parts; what was done before an interruption is merged as well.

        Returns:
            What `percep.report.summarise` tells of all photographs.

        Raises:
            InputError: a shard that cannot be read to its end, once all else is done.
        """
        try:
            problems = self._drive()
        except BaseException:
            if self.processes.world == 1 and self.parts:
                self._merge_if_possible()
            raise
        summary = self.processes.first(lambda: merge(self.folder))
        if problems and self.processes.rank:
            raise ElsewhereError("the first process says what could not be read")
        if problems:
            more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
            raise InputError(f"{problems[0]}{more}: mend it and run the same command again; all else is done")
        return summary

    def _merge_if_possible(self) -> None:
        try:
            merge(self.folder)
        except OSError:  # the disk that is full, perhaps: the parts are there, and what is raised already says why
            return

    def _claim(self, command: str, settings: Mapping[str, object]) -> tuple[Finished, int | None]:
        survey = self.run.photographs.survey()
        basis = {f"version of {name}": version for name, version in versions().items()}
        basis |= {"photographs": survey.digest, "weights": _digest(self.run.model)}
        basis["kernels (PERCEP_KERNELS)"] = kernels.described(torch.device(self.config.device))
        if self.config.device == "cpu":  # sums are split among threads
            basis["threads (OMP_NUM_THREADS)"] = str(torch.get_num_threads())
        claim(self.folder, Record(command, settings, basis, self.shards, survey.count), self.parts)
        self.parts.clean()
        finished = self.parts.finished()
        self._count(finished)
        return finished, survey.count

    def _count(self, finished: Finished) -> None:
        """Counts what was done before."""
        sizes: Counter[int] = Counter()
        for shard, rows in self.parts.columns(["label", "predicted_before", "success"]):
            turned = sum(row["success"] is True and row["label"] == row["predicted_before"] for row in rows)
            self.tally.add(len(rows), turned)
            sizes[shard] += len(rows)
        for shard in finished.shards:
            self.tally.add_shard(sizes[shard])

    def _drive(self) -> list[str]:
        batches = Batches(
            self.run.photographs, self.config.batch_size, self.finished, self.processes.rank, self.processes.world
        )
        return drive(self._work, batches, self.config.data.workers, self.parts, self.tally)

    def _work(self, batch: Batch) -> tuple[list[tuple[ImageRow, Pictures]], int]:
        places = range(batch.first, batch.first + len(batch.photographs))
        quota = share(self.config.pictures, self.shards, batch.shard)
        outcomes = self.run(batch.read(), [place < quota for place in places])
        few = share(OVERVIEW, self.shards, batch.shard)
        records = [
            (outcome.row, _pictures(outcome, place < few)) for place, outcome in zip(places, outcomes, strict=True)
        ]
        return records, sum(_turned(outcome.row) for outcome in outcomes)


def _pictures(outcome: Outcome, overview: bool) -> Pictures:
    if outcome.panel is None:
        return Pictures()
    return Pictures(exhibit(outcome.panel), packed(outcome.panel) if overview else None)


def _turned(row: ImageRow) -> bool:
    return row.correct_before and bool(row.success)


def _digest(model: Classifier) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().view(torch.uint8).numpy() if value.ndim else repr(value).encode())
    return digest.hexdigest()

"""task=attack and task=minimal: photographs attacked batch by batch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from percep.data.shards import share
from percep.report import ImageRow, console_lines, exhibit
from percep.runs.attack.batch import BallAttack, BatchAttack, C, MinimalAttack, PhotographResult
from percep.runs.attack.outputs import OVERVIEW, Pictures, checkpoints_of, merge, packed
from percep.runs.config import AttackTask, MinimalTask
from percep.runs.engine.batches import Batch
from percep.runs.engine.campaign import Campaign
from percep.runs.engine.stage import Stage
from percep.runs.engine.worker import Worker

_FOOLED_COLUMNS = ("name", "status", "label", "predicted_before", "success")
"""The columns that tell whether the model was fooled."""


class AttackCampaign(Campaign[C]):
    """A single stage: each batch is attacked, saved, read back, certified and explained.

    Attributes:
        kind: of attack.
    """

    kind: ClassVar[type[BatchAttack[Any]]]

    def __init__(self, config: C, folder: Path) -> None:
        super().__init__(config, folder)
        self.attack: BatchAttack[C] = self.kind(config, self.model, folder)

    def work(self, worker: Worker) -> None:
        """See `Campaign.work`."""
        checkpoints = checkpoints_of(self.folder, self.kind.row)
        worker.do(
            Stage(
                self.photographs, checkpoints, self.config.batch_size, lambda: self._records, _FOOLED_COLUMNS, _fooled
            )
        )

    @classmethod
    def merge(cls, folder: Path) -> str:
        """See `Campaign.merge`."""
        return console_lines(merge(folder, cls.kind.row))

    def _records(self, batch: Batch) -> list[tuple[ImageRow, Pictures]]:
        places = range(batch.first, batch.first + len(batch.photographs))
        shards = len(self.photographs.shards)
        quota, few = (share(most, shards, batch.shard) for most in (self.config.pictures, OVERVIEW))
        results = self.attack(batch.read(), [place < quota for place in places])
        return [(result.row, _pictures(result, place < few)) for place, result in zip(places, results, strict=True)]


class BallCampaign(AttackCampaign[AttackTask]):
    """task=attack: photographs attacked inside a ball."""

    kind = BallAttack


class MinimalCampaign(AttackCampaign[MinimalTask]):
    """task=minimal: photographs changed as little as the goal allows."""

    kind = MinimalAttack


def _fooled(row: Mapping[str, Any]) -> bool:
    return ImageRow(**row).fooled


def _pictures(result: PhotographResult, overview: bool) -> Pictures:
    if result.panel is None:
        return Pictures()
    return Pictures(exhibit(result.panel), packed(result.panel) if overview else None)

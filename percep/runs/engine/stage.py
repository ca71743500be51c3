"""A stage of a task: one pass over photographs, of which each batch ends as a part."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from percep.data.photographs import Source
from percep.runs.engine.batches import Batch
from percep.runs.engine.checkpoints import Checkpoints

Work = Callable[[Batch], Sequence[tuple[Any, ...]]]
"""Gives the records of a batch, as the parts of its stage take them. What comes of a batch depends on nothing else."""


def _never(_: Mapping[str, Any]) -> bool:
    return False


@dataclass(frozen=True)
class Stage:
    """A pass over photographs.

    Attributes:
        photographs: of all processes.
        checkpoints: where the records go, one or more per photograph.
        batch_size: photographs that are worked on together.
        begin: gives the work; called in each process, and not where every batch is finished.
        columns: what `fooled` asks of a record; one at least.
        fooled: whether the photograph of a record fooled the model.
        title: of the display, after the task's name.
    """

    photographs: Source
    checkpoints: Checkpoints
    batch_size: int
    begin: Callable[[], Work]
    columns: Sequence[str] = ("name",)
    fooled: Callable[[Mapping[str, Any]], bool] = _never
    title: str | None = None

    def count_fooled(self, rows: Sequence[Mapping[str, Any]]) -> int:
        """How many of some records, by column, are of a photograph that fooled the model."""
        return sum(self.fooled({name: row[name] for name in self.columns}) for row in rows)

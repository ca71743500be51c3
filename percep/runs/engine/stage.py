"""A stage of a task: one pass over photographs, each batch of which is written as a part."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from percep.data.photographs import Source
from percep.runs.engine.batches import Batch
from percep.runs.engine.checkpoints import Checkpoints

Work = Callable[[Batch], Sequence[tuple[Any, ...]]]
"""Maps a batch to its records, in the columns of the stage's checkpoints. They depend on nothing but the batch."""


@dataclass(frozen=True)
class Stage:
    """A pass over photographs.

    Attributes:
        photographs: of all processes.
        checkpoints: where the records are written, one or more per photograph.
        batch_size: photographs that are worked on together.
        begin: makes the work; called in each process, unless every batch is finished.
        columns: those of a record that `fooled` reads; at least one.
        fooled: whether the photograph of a record fooled the model; None where no photograph is attacked.
        title: of the display, after the task's name.
        unit: what a log calls the records, in the plural.
        number: its place among the task's stages, from 1.
    """

    photographs: Source
    checkpoints: Checkpoints
    batch_size: int
    begin: Callable[[], Work]
    columns: Sequence[str] = ("name",)
    fooled: Callable[[Mapping[str, Any]], bool] | None = None
    title: str | None = None
    unit: str = "photographs"
    number: int = 1

    def count_fooled(self, rows: Sequence[Mapping[str, Any]]) -> int:
        """How many of some records, by column, are of a photograph that fooled the model."""
        if self.fooled is None:
            return 0
        return sum(self.fooled({name: row[name] for name in self.columns}) for row in rows)

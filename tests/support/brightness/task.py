"""task=brightness: how bright each photograph is."""

from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from percep.data.photographs import Photograph
from percep.runs.engine.atomic import atomic
from percep.runs.engine.batches import Batch
from percep.runs.engine.campaign import Campaign
from percep.runs.engine.checkpoints import Checkpoints
from percep.runs.engine.stage import Stage
from percep.runs.engine.worker import Worker
from tests.support.brightness.config import BrightnessTask


@dataclass(frozen=True)
class Row:
    """What is found of a photograph; nothing of one that cannot be read."""

    name: str
    status: str
    brightness: float | None = None
    bright: bool | None = None


def checkpoints_of(folder: Path) -> Checkpoints:
    """A row per photograph; other columns, such as pictures, would be another dataclass beside it."""
    return Checkpoints(folder / "parts", (Row,))


class BrightnessCampaign(Campaign[BrightnessTask]):
    """A single stage."""

    def work(self, worker: Worker) -> None:
        """What is left of the stage; a second one would follow with another `worker.do`."""
        worker.do(Stage(self.photographs, checkpoints_of(self.folder), self.config.batch_size, lambda: self._measured))

    @classmethod
    def merge(cls, folder: Path) -> str:
        """Writes `brightness.csv`, and says how many photographs are bright."""
        rows = [row for _, _, records in checkpoints_of(folder) for (row,) in records]
        with atomic(folder / "brightness.csv") as path:
            pd.DataFrame(map(asdict, rows)).to_csv(path, index=False)
        return f"{sum(row.bright is True for row in rows)} of {len(rows)} photographs are bright"

    def _measured(self, batch: Batch) -> list[tuple[Row]]:
        return [(self._row(photograph),) for photograph in batch.read()]

    def _row(self, photograph: Photograph) -> Row:
        if photograph.image is None:
            return Row(photograph.name, str(photograph.problem))
        brightness = float(photograph.image.mean())
        return Row(photograph.name, "measured", brightness, brightness > self.config.threshold)

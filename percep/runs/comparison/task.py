"""task=compare: each attack on every photograph that is classified correctly, or has no label."""

from dataclasses import replace
from pathlib import Path

import torch

from percep.attacks.comparison import attack_by_name, attempt
from percep.data.photographs import Photograph
from percep.data.shards import share
from percep.errors import InputError
from percep.report import Prediction
from percep.report.comparison.gallery import GALLERY_LIMIT, compared_pictures
from percep.report.comparison.tables import ComparedImages, ComparisonRow
from percep.runs.comparison.outputs import Pictured, checkpoints_of, fooled, merge_comparison
from percep.runs.comparison.units import RepeatedPhotographs, unit_of
from percep.runs.config import CompareTask
from percep.runs.engine.batches import Batch, Batches, Finished
from percep.runs.engine.campaign import Campaign
from percep.runs.engine.stage import Stage
from percep.runs.engine.worker import Worker
from percep.runs.failures import network_failures
from percep.runs.inputs import Predictions, Screened, predict, screen
from percep.summaries import by_status


class ComparisonCampaign(Campaign[CompareTask]):
    """A single stage, of which a batch is one attack on one photograph.

    What an attack does on a photograph depends on the seed alone, not on the attacks and photographs before.

    Raises:
        UnavailableError: also an attack's library that cannot be had here.
    """

    def __init__(self, config: CompareTask, folder: Path) -> None:
        super().__init__(config, folder)
        settings = config.compare
        self.attacks = [attack_by_name(name, self.model, settings.gradients)[0] for name in settings.attacks]
        self.each = self.photographs
        self.photographs = RepeatedPhotographs(self.each, len(settings.attacks))

    def check(self) -> None:
        """Screens all photographs.

        Raises:
            InputError: a label or target that is not a class, a network that fails, no photograph to attack, or an
                attack that cannot do what is asked of it.
        """
        first: Screened | None = None
        counts: list[tuple[str, int]] = []
        problems: list[str] = []
        with network_failures(self.model):
            for batch in Batches(self.each, 1, Finished(), rank=0, world=1):
                problems += [] if batch.problem is None else [batch.problem]
                for photograph in batch.read():
                    screened = self._screen(photograph)
                    if screened.status is not None:
                        counts.append((screened.status, photograph.missing))
                    elif first is None:
                        first = screened
        if first is None:
            found = [f"{count} {status.replace('_', ' ')}" for status, count in by_status(counts).items()]
            raise InputError(f"no photograph is left to compare attacks on: {', '.join([*found, *problems])}")
        self._check_attacks(first)

    def work(self, worker: Worker) -> None:
        """See `Campaign.work`."""
        checkpoints = checkpoints_of(self.folder)
        unit = "attacks on a photograph"
        worker.do(Stage(self.photographs, checkpoints, 1, lambda: self._attack, ("outcome",), fooled, unit=unit))

    @classmethod
    def merge(cls, folder: Path) -> str:
        """See `Campaign.merge`."""
        return merge_comparison(folder)

    def _check_attacks(self, first: Screened) -> None:
        """An image that is not finite is checked like any other, and not attacked."""
        assert first.image is not None and first.label is not None
        for attack in self.attacks:
            try:
                with network_failures(self.model):
                    attack(torch.full_like(first.image, torch.nan), first.label, first.target)
            except InputError as error:
                raise InputError(f"{error}: choose other compare.attacks") from error

    def _attack(self, batch: Batch) -> list[tuple[ComparisonRow, Pictured]]:
        attacks = self.config.compare.attacks
        place, attack = unit_of(batch.number, len(attacks))
        pictured = place < share(GALLERY_LIMIT, len(self.photographs.shards), batch.shard)
        with network_failures(self.model):
            return [self._attacked(attacks[attack], photograph, pictured) for photograph in batch.read()]

    def _attacked(self, name: str, photograph: Photograph, pictured: bool) -> tuple[ComparisonRow, Pictured]:
        screened = self._screen(photograph)
        row = self._row(photograph, screened)
        if screened.status is not None:
            return row, Pictured()
        assert screened.image is not None and screened.label is not None and screened.before is not None
        settings = self.config.compare
        torch.manual_seed(self.config.seed)
        tried = attempt(
            name, self.model, screened.image, screened.label, screened.target, settings.gradients, settings.floor
        )
        row = replace(row, outcome=tried.outcome)
        after = predict(self.model, tried.image)
        if not pictured or after.classes < 0:
            return row, Pictured()
        images = ComparedImages(
            original=screened.image[0],
            adversarial=tried.image[0],
            before=self._prediction(screened.before),
            after=self._prediction(after),
            target=None if row.target is None else self.model.category(row.target),
        )
        return row, Pictured(compared_pictures(images))

    def _screen(self, photograph: Photograph) -> Screened:
        return screen(photograph, self.model, self.config, self.config.attack.target)

    def _prediction(self, predictions: Predictions) -> Prediction:
        return Prediction(self.model.category(int(predictions.classes)), float(predictions.probabilities))

    def _row(self, photograph: Photograph, screened: Screened) -> ComparisonRow:
        label, target = photograph.label, screened.target
        finite = screened.before is not None and bool(screened.before.classes >= 0)
        before = int(screened.before.classes) if screened.before is not None and finite else None
        return ComparisonRow(
            photograph.name,
            screened.status or "attacked",
            label=label,
            label_name=None if label is None else self.model.category(label),
            predicted_before=before,
            predicted_before_name=None if before is None else self.model.category(before),
            target=None if target is None else int(target),
            missing=photograph.missing,
        )

"""Attacks compared: each of them on every photograph that is classified correctly, or has no label."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from percep.attacks.comparison import attempt, named_attack
from percep.data.photographs import Photograph
from percep.errors import InputError
from percep.models.classifier import number_of_logits
from percep.report import Facts, Prediction
from percep.report.comparison.gallery import ComparisonGallery
from percep.report.comparison.tables import ComparedImages, ComparisonRow
from percep.runs.comparison.outputs import write_comparison_of_all, write_done
from percep.runs.config import CompareTask
from percep.runs.engine.launch import several
from percep.runs.engine.progress import Screen
from percep.runs.engine.run import made, said, save_settings
from percep.runs.failures import network_failures
from percep.runs.inputs import Predictions, load_subjects, look_at, predict
from percep.runs.task import Request
from percep.summaries import by_status


def compare(config: CompareTask, request: Request) -> Sequence[str]:
    """task=compare: attacks compared image by image, in one process, from beginning to end."""
    if several():
        raise InputError(f"task={config.task} runs in one process: start it without torchrun")
    folder = made(request.folder)
    if any(folder.iterdir()):
        raise InputError(f"output folder {folder} is not empty: choose another with output=FOLDER")
    comparison = Compare(config)
    save_settings(folder, request)
    rows: list[ComparisonRow] = []
    gallery = ComparisonGallery()
    try:
        with _progress() as progress:
            bar = progress.add_task(config.task, total=len(comparison), note="")
            for compared in comparison:
                rows.append(compared.row)
                gallery.add(compared.row, compared.images)
                progress.update(bar, advance=1, note=compared.row.name)
    except KeyboardInterrupt as error:
        if rows:
            error.add_note(f"what is finished is in {folder}")
        raise
    finally:  # what was done before an interruption is kept
        if rows:
            facts = Facts(request.command, request.settings, comparison.photographs)
            write_done(folder, config, facts, rows, gallery, comparison.classes)
    return said(write_comparison_of_all(folder, config, rows, comparison.classes), folder)


@dataclass(frozen=True)
class Compared:
    """What a comparison says of one photograph under one attack; there are no images where none was attacked, or where
    the model's answer is not finite."""

    row: ComparisonRow
    images: ComparedImages | None = None


class Compare:
    """The attacks of a configuration on its photographs, image by image.

    Iterating does the work and yields one `Compared` per photograph and attack, photograph by photograph; of a
    photograph that is not attacked, a single one that says why in its status. What an attack does on a photograph
    depends on the seed alone, not on the attacks and photographs before.

    Args:
        config: what to attack, and how.

    Attributes:
        classes: how many the model has.

    Raises:
        InputError: a model, checkpoint, device, path, label or target that is not usable, an attack that cannot
            do what is asked of it, or no photograph to attack.
        UnavailableError: an attack's library, weights or a device that cannot be had here.
    """

    def __init__(self, config: CompareTask) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.model, photographs = load_subjects(config)
        self.classes = number_of_logits(self.model)
        attacks = [named_attack(name, self.model, config.compare.gradients)[0] for name in config.compare.attacks]
        with network_failures(self.model):
            self.subjects = [self._subject(photograph) for photograph in photographs]
        first = next((subject for subject in self.subjects if isinstance(subject, _Subject)), None)
        if first is None:
            raise InputError(f"no photograph is left to compare attacks on: {_counts(self.subjects)}")
        for attack in attacks:  # an image that is not finite is checked like any other, and not attacked
            try:
                with network_failures(self.model):
                    attack(torch.full_like(first.image, torch.nan), first.label, first.target)
            except InputError as error:
                raise InputError(f"{error}: choose other compare.attacks") from error

    @property
    def photographs(self) -> int:
        """How many there are, attacked or not."""
        return sum(isinstance(subject, _Subject) or not subject.missing for subject in self.subjects)

    def __len__(self) -> int:
        attacks = len(self.config.compare.attacks)
        return sum(attacks if isinstance(subject, _Subject) else 1 for subject in self.subjects)

    def __iter__(self) -> Iterator[Compared]:
        for subject in self.subjects:
            if isinstance(subject, _Subject):
                for name in self.config.compare.attacks:
                    with network_failures(self.model):
                        compared = self._compared(name, subject)
                    yield compared
            else:
                yield Compared(subject)

    def _compared(self, name: str, subject: "_Subject") -> Compared:
        settings = self.config.compare
        torch.manual_seed(self.config.seed)
        tried = attempt(
            name, self.model, subject.image, subject.label, subject.target, settings.gradients, settings.floor
        )
        row = replace(subject.row, outcome=tried.outcome)
        after = predict(self.model, tried.image)
        if after.classes < 0:
            return Compared(row)
        return Compared(
            row,
            ComparedImages(
                original=subject.image[0],
                adversarial=tried.image[0],
                before=subject.before,
                after=self._prediction(after),
                target=None if row.target is None else self.model.category(row.target),
            ),
        )

    def _prediction(self, predictions: Predictions) -> Prediction:
        return Prediction(self.model.category(int(predictions.classes)), float(predictions.probabilities))

    def _subject(self, photograph: Photograph) -> "_Subject | ComparisonRow":
        looked = look_at(photograph, self.model, self.config, self.config.attack.target)
        label, target = photograph.label, looked.target
        finite = looked.before is not None and bool(looked.before.classes >= 0)
        before = int(looked.before.classes) if looked.before is not None and finite else None
        row = ComparisonRow(
            photograph.name,
            looked.status or "attacked",
            label=label,
            label_name=None if label is None else self.model.category(label),
            predicted_before=before,
            predicted_before_name=None if before is None else self.model.category(before),
            target=None if target is None else int(target),
            missing=photograph.missing,
        )
        if looked.status is not None:
            return row
        assert looked.image is not None and looked.label is not None and looked.before is not None
        return _Subject(row, looked.image, looked.label, looked.target, self._prediction(looked.before))


@dataclass(frozen=True)
class _Subject:
    """A photograph to attack: `(1, C, H, W)`, with its label and target `(1,)`, and the prediction."""

    row: ComparisonRow
    image: Tensor
    label: Tensor
    target: Tensor | None
    before: Prediction


def _counts(subjects: Iterable[_Subject | ComparisonRow]) -> str:
    rows = (subject.row if isinstance(subject, _Subject) else subject for subject in subjects)
    counts = by_status((row.status, row.missing) for row in rows)
    return ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in counts.items())


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        TimeRemainingColumn(),
        console=Screen(),
    )

"""A batch of photographs attacked, saved, read back, certified and explained."""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import ClassVar, Generic, TypeVar, cast

import torch
from torch import Tensor

from percep.attacks import AttackResult, FrankWolfe, MinimalPerturbation, MinimalResult
from percep.attacks.cost import Measure
from percep.attacks.criteria import Loss, achieved
from percep.certificate import Certificate, certify
from percep.data.photographs import Photograph
from percep.errors import InputError
from percep.explain import (
    Association,
    Associations,
    allocation_maps,
    associations,
    gradcam,
    local_standard_deviation,
    ssim_maps,
)
from percep.models import Classifier
from percep.report import ImageRow, MinimalRow, Panel, Prediction, read_image, save_image, save_panel
from percep.report.common.worst_place import worst_place
from percep.runs.config import AttackTask, MinimalTask, PicturedTask
from percep.runs.failures import network_failures
from percep.runs.inputs import Predictions, predict, stable_seed, targets_of

C = TypeVar("C", bound=PicturedTask)
Attack = Callable[[Tensor, Tensor, Tensor | None], AttackResult]
"""An attack on images with their labels and targets."""


@dataclass(frozen=True)
class PhotographResult:
    """The row of one photograph, and its panel if one is drawn and both predictions are finite."""

    row: ImageRow
    panel: Panel | None = None


class BatchAttack(ABC, Generic[C]):
    """The attack of a configuration on batches of its photographs.

    Args:
        config: what to attack, and how.
        model: on the configuration's device.
        folder: an existing folder for the files.

    Attributes:
        row: the type of its rows.
        floor, mean: the levels that its images are held to; None where it has none.
    """

    row: ClassVar[type[ImageRow]] = ImageRow
    floor: float | None = None
    mean: float | None = None

    def __init__(self, config: C, model: Classifier, folder: Path) -> None:
        self.config, self.model = config, model
        self.attack = self.attack_of(config)
        self.adversarial, self.panels = folder / "adversarial", folder / "panels"

    def __call__(self, photographs: Sequence[Photograph], pictured: Sequence[bool]) -> list[PhotographResult]:
        """Attacks a batch.

        Args:
            photographs: a batch. The results depend on nothing else.
            pictured: which of them get a panel.

        Returns:
            One result per photograph, once its files `adversarial/NAME.png` and `panels/NAME.png` are written.
            All figures of an adversarial image are measured on the file.

        Raises:
            InputError: a label or target that is not a class, a layer for Grad-CAM that the network does not have, or a
                network that raises an error.
        """
        readable = [photograph for photograph in photographs if photograph.image is not None]
        torch.manual_seed(stable_seed(photographs[0].name if photographs else "", self.config.seed))
        with network_failures(self.model, readable):
            batch = self._measure(readable) if readable else None
        numbers = count()
        return [
            self._left_out(photograph)
            if batch is None or photograph.image is None
            else self._result(batch, next(numbers), shown)
            for photograph, shown in zip(photographs, pictured, strict=True)
        ]

    def _left_out(self, photograph: Photograph) -> PhotographResult:
        label = photograph.label
        name = None if label is None else self.model.category(label)
        return PhotographResult(
            self.row(photograph.name, str(photograph.problem), label, name, missing=photograph.missing)
        )

    def _measure(self, photographs: Sequence[Photograph]) -> "MeasuredBatch":
        images = [photograph.image for photograph in photographs if photograph.image is not None]
        references = torch.stack(images).to(self.config.device)
        before = predict(self.model, references)
        # Before the attack, so that a layer that the network does not have is refused at once.
        attention, no_gradcam = self._gradcam(references, before.classes.clamp(min=0))
        given = [-1 if photograph.label is None else photograph.label for photograph in photographs]
        labels = torch.tensor(given, device=references.device)
        # Without a label the attack leaves the predicted class; without a finite prediction its status is not_finite.
        labels_or_predictions = torch.where(labels < 0, before.classes, labels).clamp(min=0)
        names = [photograph.name for photograph in photographs]
        targets = targets_of(
            photographs,
            self.config.attack.target,
            labels_or_predictions,
            before.logits.shape[1],
            self.config.seed,
            self.model.first_class,
        )
        start = time.perf_counter()
        result = self.attack(references, labels_or_predictions, targets)
        seconds = (time.perf_counter() - start) / len(photographs)

        pairs = zip(photographs, result.images, strict=True)
        saved = torch.stack([self._save(photograph, image) for photograph, image in pairs])
        saved = saved.to(references.device)
        after = predict(self.model, saved)
        ssim = ssim_maps(references, saved)
        return MeasuredBatch(
            names=names,
            references=references,
            saved=saved,
            labels=labels,
            targets=targets,
            before=before,
            after=after,
            achieved=achieved(after.logits, labels_or_predictions, targets),
            certificate=certify(references, saved, self.floor, self.mean),
            result=result,
            seconds=seconds,
            ssim=ssim,
            gradcam=attention,
            no_gradcam=no_gradcam,
            allocation=allocation_maps(result.spending, (saved.shape[-2], saved.shape[-1])),
            associations=_associations(references, ssim, attention, no_gradcam),
        )

    def _gradcam(self, references: Tensor, classes: Tensor) -> tuple[Tensor | None, str | None]:
        """Grad-CAM, or the reason why the network has none; the attack does not need it."""
        try:
            return gradcam(self.model, references, classes), None
        except InputError as error:
            if self.model.layer is not None:
                raise
            return None, str(error)

    def _save(self, photograph: Photograph, image: Tensor) -> Tensor:
        """Writes the image to its file, and returns it as read from there."""
        path = self.adversarial / f"{photograph.name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_image(path, image)
        return read_image(path)

    def _result(self, batch: "MeasuredBatch", i: int, pictured: bool) -> PhotographResult:
        row = self.row_of(batch, i)
        if not pictured or row.predicted_before is None or row.predicted_after is None:
            return PhotographResult(row)
        panel = batch.panel(i, row, self.floor, self.mean)
        path = self.panels / f"{row.name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_panel(path, panel)
        return PhotographResult(row, panel)

    def row_of(self, batch: "MeasuredBatch", i: int) -> ImageRow:
        """The row of an image, of the type `row`."""
        return batch.row(i, self.model)

    @abstractmethod
    def attack_of(self, config: C) -> Attack:
        """The attack on `self.model` with the settings of a configuration."""


class BallAttack(BatchAttack[AttackTask]):
    """`FrankWolfe` with the ball and the settings of a configuration."""

    def __init__(self, config: AttackTask, model: Classifier, folder: Path) -> None:
        super().__init__(config, model, folder)
        self.floor, self.mean = config.ball.floor, config.ball.mean

    def attack_of(self, config: AttackTask) -> Attack:
        return FrankWolfe(
            self.model,
            floor=config.ball.floor,
            mean=config.ball.mean,
            steps=config.attack.steps,
            loss=cast(Loss, config.attack.loss),
        )


class MinimalAttack(BatchAttack[MinimalTask]):
    """`MinimalPerturbation` with the settings of a configuration."""

    row = MinimalRow

    def attack_of(self, config: MinimalTask) -> Attack:
        return MinimalPerturbation(
            self.model,
            measure=cast(Measure, config.attack.measure),
            gradients=config.attack.gradients,
        )

    def row_of(self, batch: "MeasuredBatch", i: int) -> ImageRow:
        row = super().row_of(batch, i)
        measured = row.mean_ssim if self.config.attack.measure == "mean" else row.min_ssim
        missed = cast(MinimalResult, batch.result).missed
        return MinimalRow(**vars(row), found=measured if row.success else None, missed=float(missed[i]))


@dataclass(frozen=True)
class MeasuredBatch:
    """The measurements of a batch after the attack, one entry per image."""

    names: Sequence[str]
    references: Tensor
    saved: Tensor
    labels: Tensor
    targets: Tensor | None
    before: Predictions
    after: Predictions
    achieved: Tensor
    certificate: Certificate
    result: AttackResult
    seconds: float
    ssim: Tensor
    gradcam: Tensor | None
    no_gradcam: str | None
    allocation: Tensor
    associations: Sequence[Associations]

    def row(self, i: int, model: Classifier) -> ImageRow:
        label, label_name = _class(model, self.labels[i])
        before, before_name = _class(model, self.before.classes[i])
        after, after_name = _class(model, self.after.classes[i])
        target, target_name = (None, None) if self.targets is None else _class(model, self.targets[i])
        worst = worst_place(self.references[i], self.saved[i], self.ssim[i])
        perturbation = self.saved[i].double() - self.references[i].double()
        return ImageRow(
            name=self.names[i],
            status=str(self.result.status[i]),
            label=label,
            label_name=label_name,
            predicted_before=before,
            predicted_before_name=before_name,
            target=target,
            target_name=target_name,
            predicted_after=after,
            predicted_after_name=after_name,
            success=bool(self.achieved[i] & self.certificate.within[i]),
            certified=bool(self.certificate.within[i]),
            min_ssim=float(self.certificate.min_ssim[i]),
            mean_ssim=float(self.certificate.mean_ssim[i]),
            worst_row=None if worst is None else worst.row,
            worst_column=None if worst is None else worst.column,
            worst_linf=None if worst is None else worst.change,
            l2=float(perturbation.norm()),
            linf=float(perturbation.abs().amax()),
            gap=float(self.result.gap[i]),
            gradient_calls=int(self.result.gradient_calls[i]),
            seconds=self.seconds,
            associations=self.associations[i],
            zero_gradcam=None if self.gradcam is None else not bool(self.gradcam[i].any()),
        )

    def panel(self, i: int, row: ImageRow, floor: float | None, mean: float | None) -> Panel:
        return Panel(
            name=row.name,
            original=self.references[i],
            adversarial=self.saved[i],
            ssim=self.ssim[i],
            gradcam=None if self.gradcam is None else self.gradcam[i],
            no_gradcam=self.no_gradcam,
            allocation=self.allocation[i],
            before=Prediction(str(row.predicted_before_name), float(self.before.probabilities[i])),
            after=Prediction(str(row.predicted_after_name), float(self.after.probabilities[i])),
            min_ssim=float(self.certificate.min_ssim[i]),
            mean_ssim=float(self.certificate.mean_ssim[i]),
            floor=floor,
            mean=mean,
            certified=bool(self.certificate.within[i]),
            status=row.status,
        )


def _associations(
    references: Tensor, ssim: Tensor, attention: Tensor | None, no_gradcam: str | None
) -> Sequence[Associations]:
    """The associations of each image; without Grad-CAM those with it are NaN, with the reason."""
    texture = local_standard_deviation(references)
    found = associations((1 - ssim).mean(1), texture if attention is None else attention, texture)
    if attention is not None:
        return found
    none = Association(math.nan, math.nan, no_gradcam)
    return [replace(each, dissimilarity_gradcam=none, gradcam_texture=none) for each in found]


def _class(model: Classifier, index: Tensor) -> tuple[int | None, str | None]:
    return (None, None) if index < 0 else (int(index), model.category(int(index)))

"""A run: every photograph of a configuration attacked, saved, read back, certified and explained."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from percep import data, models
from percep.attacks import AttackResult, FrankWolfe
from percep.attacks.criteria import Loss, achieved
from percep.certificate import Certificate, certify
from percep.config import Config, DataConfig
from percep.data import Photograph, Photographs
from percep.explain import (
    Associations,
    allocation_maps,
    associations,
    gradcam,
    local_standard_deviation,
    ssim_maps,
)
from percep.models import Classifier, Source
from percep.report import ImageRow, Panel, Prediction, read_image, save_image, save_panel


@dataclass(frozen=True)
class Outcome:
    """What a run says of one photograph; there is no panel where nothing finite could be drawn."""

    row: ImageRow
    panel: Panel | None = None


class Run:
    """The attack of a configuration on its photographs.

    Iterating does the work, a batch at a time, and yields one `Outcome` per photograph in order, once its
    files `adversarial/NAME.png` and `panels/NAME.png` are written. Whatever an outcome says of an adversarial
    image was measured on the file.

    Args:
        config: what to attack, and how.
        folder: an existing folder for the files.

    Raises:
        InputError: a model, checkpoint, device, path or label that is not usable; while iterating, a target
            that is not a class or a network without a layer for Grad-CAM.
        UnavailableError: weights or a device that cannot be had here.
    """

    def __init__(self, config: Config, folder: Path) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.model = models.load(
            config.model.name,
            source=cast(Source, config.model.source),
            checkpoint=config.model.checkpoint,
            layer=config.model.layer,
            device=config.device,
        )
        self.photographs = _photographs(config.data, self.model)
        self.attack = FrankWolfe(
            self.model,
            floor=config.ball.floor,
            mean=config.ball.mean,
            steps=config.attack.steps,
            loss=cast(Loss, config.attack.loss),
        )
        self.adversarial, self.panels = folder / "adversarial", folder / "panels"

    def __len__(self) -> int:
        return len(self.photographs)

    def __iter__(self) -> Iterator[Outcome]:
        self.adversarial.mkdir()
        self.panels.mkdir()
        remaining = iter(self.photographs)
        while batch := list(islice(remaining, self.config.batch_size)):
            readable = [photograph for photograph in batch if photograph.image is not None]
            outcomes = iter(self._attack(readable) if readable else ())
            for photograph in batch:
                yield self._unreadable(photograph) if photograph.image is None else next(outcomes)

    def _unreadable(self, photograph: Photograph) -> Outcome:
        label = photograph.label
        name = None if label is None else self.model.category(label)
        return Outcome(ImageRow(photograph.name, f"unreadable: {photograph.problem}", label, name))

    def _attack(self, photographs: Sequence[Photograph]) -> list[Outcome]:
        images = [photograph.image for photograph in photographs if photograph.image is not None]
        references = torch.stack(images).to(self.config.device)
        before = _predict(self.model, references)
        # Before the attack, so that a network without a layer for it is refused at once.
        attention = gradcam(self.model, references, before.classes.clamp(min=0))
        given = [-1 if photograph.label is None else photograph.label for photograph in photographs]
        labels = torch.tensor(given, device=references.device)
        labels = torch.where(labels < 0, before.classes, labels)
        left = labels.clamp(min=0)  # neither labelled nor classified: the attack will call it not finite
        targets = self._targets(left, classes=before.logits.shape[1])
        start = time.perf_counter()
        result = self.attack(references, left, targets)
        seconds = (time.perf_counter() - start) / len(photographs)

        pairs = zip(photographs, result.images, strict=True)
        saved = torch.stack([self._save(photograph, image) for photograph, image in pairs])
        saved = saved.to(references.device)
        after = _predict(self.model, saved)
        ssim = ssim_maps(references, saved)
        batch = _Batch(
            names=[photograph.name for photograph in photographs],
            references=references,
            saved=saved,
            labels=labels,
            before=before,
            after=after,
            achieved=achieved(after.logits, left, targets),
            certificate=certify(references, saved, self.config.ball.floor, self.config.ball.mean),
            result=result,
            seconds=seconds,
            ssim=ssim,
            gradcam=attention,
            allocation=allocation_maps(result.spending, (saved.shape[-2], saved.shape[-1])),
            associations=associations((1 - ssim).mean(1), attention, local_standard_deviation(references)),
        )
        return [self._outcome(batch, i) for i in range(len(photographs))]

    def _targets(self, labels: Tensor, classes: int) -> Tensor | None:
        target = self.config.attack.target
        if target is None:
            return None
        if target == "random":  # any class but the label, each as likely
            return (labels + torch.randint(1, classes, labels.shape).to(labels.device)) % classes
        return torch.full_like(labels, int(target))

    def _save(self, photograph: Photograph, image: Tensor) -> Tensor:
        """The image as its file holds it."""
        path = self.adversarial / f"{photograph.name}.png"
        save_image(path, image)
        return read_image(path)

    def _outcome(self, batch: "_Batch", i: int) -> Outcome:
        row = batch.row(i, self.model)
        if row.predicted_before is None or row.predicted_after is None:
            return Outcome(row)
        panel = batch.panel(i, row, self.config)
        save_panel(self.panels / f"{row.name}.png", panel)
        return Outcome(row, panel)


@dataclass(frozen=True)
class _Predictions:
    """`classes` is `(B,)` int64, -1 where logits are not finite; `probabilities` are those of the classes."""

    logits: Tensor
    classes: Tensor
    probabilities: Tensor


@torch.no_grad()
def _predict(model: Classifier, images: Tensor) -> _Predictions:
    logits = model(images)
    finite = torch.isfinite(logits).all(1)
    return _Predictions(logits, torch.where(finite, logits.argmax(1), -1), logits.softmax(1).amax(1))


@dataclass(frozen=True)
class _Batch:
    """All that is known of a batch after the attack, one entry per image."""

    names: Sequence[str]
    references: Tensor
    saved: Tensor
    labels: Tensor
    before: _Predictions
    after: _Predictions
    achieved: Tensor
    certificate: Certificate
    result: AttackResult
    seconds: float
    ssim: Tensor
    gradcam: Tensor
    allocation: Tensor
    associations: Sequence[Associations]

    def row(self, i: int, model: Classifier) -> ImageRow:
        label, label_name = _class(model, self.labels[i])
        before, before_name = _class(model, self.before.classes[i])
        after, after_name = _class(model, self.after.classes[i])
        perturbation = self.saved[i].double() - self.references[i].double()
        return ImageRow(
            name=self.names[i],
            status=str(self.result.status[i]),
            label=label,
            label_name=label_name,
            predicted_before=before,
            predicted_before_name=before_name,
            predicted_after=after,
            predicted_after_name=after_name,
            success=bool(self.achieved[i] & self.certificate.within[i]),
            certified=bool(self.certificate.within[i]),
            min_ssim=float(self.certificate.min_ssim[i]),
            mean_ssim=float(self.certificate.mean_ssim[i]),
            l2=float(perturbation.norm()),
            linf=float(perturbation.abs().amax()),
            gap=float(self.result.gap[i]),
            gradient_calls=int(self.result.gradient_calls[i]),
            seconds=self.seconds,
            associations=self.associations[i],
            zero_gradcam=not bool(self.gradcam[i].any()),
        )

    def panel(self, i: int, row: ImageRow, config: Config) -> Panel:
        return Panel(
            name=row.name,
            original=self.references[i],
            adversarial=self.saved[i],
            ssim=self.ssim[i],
            gradcam=self.gradcam[i],
            allocation=self.allocation[i],
            before=Prediction(str(row.predicted_before_name), float(self.before.probabilities[i])),
            after=Prediction(str(row.predicted_after_name), float(self.after.probabilities[i])),
            min_ssim=float(self.certificate.min_ssim[i]),
            mean_ssim=float(self.certificate.mean_ssim[i]),
            floor=config.ball.floor,
            mean=config.ball.mean,
            certified=bool(self.certificate.within[i]),
            status=row.status,
        )


def _class(model: Classifier, index: Tensor) -> tuple[int | None, str | None]:
    return (None, None) if index < 0 else (int(index), model.category(int(index)))


def _photographs(config: DataConfig, model: Classifier) -> Photographs:
    preprocessing = model.preprocessing
    assert preprocessing is not None  # a loaded model has one
    if config.path is None:
        photographs = data.samples(preprocessing)
    elif config.source == "folder":
        photographs = data.folder(config.path, preprocessing, model.class_index)
    else:
        photographs = data.image(config.path, preprocessing)
    return photographs if config.limit is None else photographs.first(config.limit)

"""What a task attacks: the model and the photographs of a configuration, their predictions, their targets."""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from percep import data, models
from percep.config import Config, DataConfig
from percep.data import Photographs
from percep.models import Classifier, Source


def load_subjects(config: Config) -> tuple[Classifier, Photographs]:
    """The model, on the configuration's device, and the photographs, none of them read yet.

    Raises:
        InputError: a model, checkpoint, device, path or label that is not usable.
        UnavailableError: weights or a device that cannot be had here.
    """
    model = models.load(
        config.model.name,
        source=cast(Source, config.model.source),
        checkpoint=config.model.checkpoint,
        layer=config.model.layer,
        device=config.device,
    )
    return model, photographs_of(config.data, model)


@dataclass(frozen=True)
class Predictions:
    """`classes` is `(B,)` int64, -1 where logits are not finite; `probabilities` are those of the classes."""

    logits: Tensor
    classes: Tensor
    probabilities: Tensor


@torch.no_grad()
def predict(model: Classifier, images: Tensor) -> Predictions:
    """What the model says of `(B, C, H, W)` images in [0, 1]."""
    logits = model(images)
    finite = torch.isfinite(logits).all(1)
    return Predictions(logits, torch.where(finite, logits.argmax(1), -1), logits.softmax(1).amax(1))


def targets_of(target: str | None, labels: Tensor, classes: int) -> Tensor | None:
    """`(B,)` int64 targets as `attack.target` says: a class index, or "random" for any but the label.

    Args:
        target: None for no targets.
        labels: `(B,)` int64 class indices.
        classes: how many there are.
    """
    if target is None:
        return None
    if target == "random":  # any class but the label, each as likely
        return (labels + torch.randint(1, classes, labels.shape).to(labels.device)) % classes
    return torch.full_like(labels, int(target))


def photographs_of(config: DataConfig, model: Classifier) -> Photographs:
    """The photographs of a configuration, preprocessed for a loaded model, none of them read yet."""
    preprocessing = model.preprocessing
    assert preprocessing is not None  # a loaded model has one
    if config.path is None:
        photographs = data.samples(preprocessing)
    elif config.source == "folder":
        photographs = data.folder(config.path, preprocessing, model.class_index)
    else:
        photographs = data.image(config.path, preprocessing)
    return photographs if config.limit is None else photographs.first(config.limit)

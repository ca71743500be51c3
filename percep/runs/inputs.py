"""What a task works on: the model and the photographs of a configuration, their predictions, their targets."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from percep import data, models
from percep.attacks.validation import check_logits
from percep.choices import FROM_NAMES
from percep.data.labels import Labels, NameLabels
from percep.data.photographs import Photograph, Photographs, Source
from percep.data.shards import Archives, ClassFolders, Shards
from percep.errors import InputError
from percep.models import Classifier, Preprocessing
from percep.runs.config import Config, DataConfig


def load_inputs(config: Config) -> tuple[Classifier, Source]:
    """The model, on the configuration's device, and the photographs, none of them read yet.

    Raises:
        InputError: a model, checkpoint, device, path or label that is not usable.
        UnavailableError: weights or a device that cannot be had here.
    """
    settings = {field.name: getattr(config.model, field.name) for field in fields(config.model)}
    model = models.load(**settings, device=config.device)
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


@dataclass(frozen=True)
class Screened:
    """What is known of a photograph before it is attacked alone; None where it was not asked.

    Attributes:
        status: why it is not attacked: the problem of a `Photograph`, "not_finite", "misclassified" or
            "already_adversarial"; None where it is to be.
        image: `(1, C, H, W)`, on the configuration's device.
        before: what the model says of it.
        label, target: `(1,)` int64; no target where none is asked for.
    """

    status: str | None
    image: Tensor | None = None
    before: Predictions | None = None
    label: Tensor | None = None
    target: Tensor | None = None


def screen(photograph: Photograph, model: Classifier, config: Config, target: str | None) -> Screened:
    """Screens one photograph; without a label of its own it has the model's.

    Args:
        photograph: read.
        model: to be attacked.
        config: whose device and seed are meant.
        target: the configuration's `attack.target`.

    Raises:
        InputError: a label or target that is not a class of the model.
    """
    if photograph.image is None:
        return Screened(photograph.problem)
    image = photograph.image[None].to(config.device)
    before = predict(model, image)
    if before.classes < 0:
        return Screened("not_finite", image, before)
    label = before.classes if photograph.label is None else torch.full_like(before.classes, photograph.label)
    goal = targets_of([photograph], target, label, before.logits.shape[1], config.seed, model.first_class)
    check_logits(before.logits, 1, label, goal)
    status = None
    if before.classes != label:
        status = "misclassified"
    elif goal is not None and goal == label:
        status = "already_adversarial"
    return Screened(status, image, before, label, goal)


def targets_of(
    photographs: Sequence[Photograph],
    target: str | None,
    labels: Tensor,
    logits: int,
    seed: int,
    first_class: int = 0,
) -> Tensor | None:
    """`(B,)` int64 targets: those of the photographs, or as `attack.target` says a class, or any but the label.

    Labels and targets are indices of logits. `attack.target` counts classes from 0, as the indices in labels do.

    Args:
        photographs: all with targets of their own, or none. A random target depends on the photograph's name and the
            seed, not on others.
        target: the configuration's `attack.target`; None for no targets but the photographs' own.
        labels: `(B,)` int64 class indices.
        logits: how many there are.
        seed: of the run.
        first_class: index of the first logit that is a class, as of a `Classifier`.

    Raises:
        InputError: `attack.target` is none of the classes.
    """
    own = [photograph.target for photograph in photographs if photograph.target is not None]
    if own:
        return torch.tensor(own, dtype=labels.dtype, device=labels.device)
    if target is None:
        return None
    classes = logits - first_class
    if target == "random":  # any class but the label, each as likely
        numbers = [stable_seed(one.name, seed) for one in photographs]
        pairs = zip(numbers, labels.tolist(), strict=True)
        found = [_another(number, label - first_class, classes) + first_class for number, label in pairs]
        return torch.tensor(found, dtype=labels.dtype, device=labels.device)
    index = int(target)
    if index >= classes:
        raise InputError(f"targets must be class indices in [0, {classes - 1}], got {index}")
    return torch.full_like(labels, index + first_class)


def _another(number: int, label: int, classes: int) -> int:
    """The class that a number stands for, of all but the label; a label below 0 is none of them."""
    return number % classes if label < 0 else (label + 1 + number % max(classes - 1, 1)) % classes


def stable_seed(name: str, seed: int) -> int:
    """A number below 2**63, as good as random, that a name and a seed stand for on every machine."""
    key = f"{seed} {name}".encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest()) >> 1


Reader = Callable[[str, Preprocessing, Mapping[str, int], Labels | NameLabels | None], Photographs | Shards]

SOURCES: dict[str, Reader] = {
    "folder": data.folder,
    "image": data.image,
    "imagefolder": lambda path, preprocessing, class_index, _: ClassFolders(path, preprocessing, class_index),
    "webdataset": Archives,
}
"""The values of `data.source` that have a path: what reads the photographs there."""


def photographs_of(config: DataConfig, model: Classifier) -> Source:
    """The photographs of a configuration, preprocessed for a loaded model, none of them read yet."""
    preprocessing = model.preprocessing
    assert preprocessing is not None  # a loaded model has one
    photographs: Photographs | Shards
    if config.path is None:
        photographs = data.samples(preprocessing)
    else:
        photographs = SOURCES[config.source](config.path, preprocessing, model.class_index, labels_of(config))
    return photographs if config.limit is None else photographs.first(config.limit)


def labels_of(config: DataConfig) -> Labels | NameLabels | None:
    """The labels that a configuration gives, beside those of folders and archives; None where it gives none."""
    if config.labels is None:
        return None
    if config.labels == FROM_NAMES:
        return NameLabels()
    return Labels.read(
        config.labels,
        name_column=config.name_column,
        label_column=config.label_column,
        target_column=config.target_column,
        first_class=config.first_class,
    )

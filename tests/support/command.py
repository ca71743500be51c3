"""The command on three small photographs and a small network."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from percep import models
from percep.cli.main import main
from percep.models import Classifier, Preprocessing

SIDE = 32
CLASSES = ("ant", "bee", "cat", "dog")
PREPROCESSING = Preprocessing(resize=SIDE, crop=SIDE)
SMALL_STUDY = (
    "task=explain",
    "study=quick",
    "study.block=8",
    "study.steps=2",
    "study.integration=1",
    "study.resamples=99",
)
"""A study of photographs of that size, but for its data and its ball."""


class _Network(nn.Module):
    """A small network of fixed random weights; it answers NaN for images darker than `blind_below`."""

    def __init__(self, blind_below: float) -> None:
        super().__init__()
        self.blind_below = blind_below
        self.stem = nn.Conv2d(3, 8, 5, stride=2, padding=2)
        self.stage = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.head = nn.Linear(16, len(CLASSES))
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            parameter.data.normal_(0, 0.5, generator=generator)

    def forward(self, images: Tensor) -> Tensor:
        features = self.stage(self.stem(images).relu()).relu().mean((2, 3))
        blind = images.mean((1, 2, 3)) < self.blind_below
        return self.head(features).where(~blind[:, None], torch.nan)


def small_classifier(blind_below: float = -1) -> Classifier:
    classifier = Classifier(
        _Network(blind_below), mean=[0.0] * 3, std=[1.0] * 3, categories=CLASSES, preprocessing=PREPROCESSING
    )
    return classifier.eval().requires_grad_(False)


def use_small_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "load", lambda name, **_: small_classifier())


def enter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goes to a folder and makes `photos` there: three photographs and a text file named .jpg."""
    monkeypatch.chdir(folder)
    Path("photos").mkdir()
    for seed, name in enumerate(("a", "b", "d")):
        photograph(seed).save(f"photos/{name}.png")
    Path("photos/c.jpg").write_text("not a photograph")


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The last line on stderr of a command that fails as it should."""
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Traceback" not in printed.err
    line = printed.err.splitlines()[-1]
    assert line.startswith("percep: ")
    return line


def photograph(seed: int) -> Image.Image:
    """A small photograph of smooth colours, another for every seed."""
    coarse = np.random.default_rng(seed).integers(40, 216, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC)

"""What a study measures on a batch: little or everything, and a new attribution by one entry."""

import pytest
import torch
from torch import Tensor, nn

from percep.models import Classifier
from percep.study import CONTROLS, Depth, Measurements, Setting, measure
from percep.study.attributions import ATTRIBUTIONS, StudyAttribution
from percep.study.criteria import display_name
from percep.windows import Window

SIDE = 12
SETTING = Setting(None, 0.3, Window.uniform(4, stride=4, padding="valid"), steps=2)


def measured(*, full: bool) -> Measurements:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = Classifier(network, mean=[0.0] * 3, std=[1.0] * 3).eval()
    images = torch.randint(60, 196, (1, 3, SIDE, SIDE)) / 255
    labels = model(images).argmax(1)
    depth = Depth(4, (0.25,), 1, "random", full, 2, 2, (), 1)
    another = torch.rand(1, 3, 3, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    found = measure(model, SETTING, depth, ["photograph"], images, labels, None, another, [model], generator)
    assert found is not None
    return found


def test_an_attribution_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    def brightness(_model: Classifier, images: Tensor, _labels: Tensor, gradients: int) -> Tensor:
        return images.mean(1) * gradients

    monkeypatch.setitem(ATTRIBUTIONS, "brightness", StudyAttribution("the brightness", brightness))
    found = measured(full=True)
    torch.testing.assert_close(found.attention["brightness"], found.references.mean(1) * 2)
    assert list(found.attention)[:4] == [*ATTRIBUTIONS] and display_name("brightness") == "the brightness"
    assert list(found.others)[:4] == ["first_order", *CONTROLS]
    assert {curve.kind for curve in found.curves} == {"insertion", "deletion"}


def test_a_variant_measures_what_the_criteria_need() -> None:
    found = measured(full=False)
    assert [*found.changes] == ["dissimilarity"] and [*found.others] == ["first_order", "random"]
    assert [*found.attention] == ["gradcam"] and found.regions and not found.curves

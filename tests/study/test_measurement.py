"""What a study measures on a batch: little or everything, and a new attribution by one entry."""

import pytest
import torch
from torch import Tensor, nn

from percep.models import Classifier
from percep.report.study.gallery import study_exhibits
from percep.study import (
    CONTROLS,
    Claim,
    Depth,
    Evidence,
    Inference,
    Measurements,
    Setting,
    VariantResult,
    analyse,
    measure,
    photograph_evidence,
)
from percep.study.attributions import ATTRIBUTIONS, StudyAttribution
from percep.study.criteria import display_name
from percep.windows import Window

SIDE = 12
SETTING = Setting(None, 0.3, Window.uniform(4, stride=4, padding="valid"), steps=2)


def measured(*, full: bool, count: int = 1, **settings: object) -> Measurements:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = Classifier(network, mean=[0.0] * 3, std=[1.0] * 3).eval()
    images = torch.randint(60, 196, (count, 3, SIDE, SIDE)) / 255
    labels = model(images).argmax(1)
    depth = Depth(4, (0.25,), 1, "random", full, 2, 2, (), 1, **settings)
    another = torch.rand(count, 3, 3, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    names = [f"photograph {number}" for number in range(count)]
    found = measure(model, SETTING, depth, names, images, labels, None, another, [model], generator)
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


def darkness(_model: Classifier, images: Tensor, _labels: Tensor) -> Tensor:
    return 0.5 - images.mean(1)


def test_attributions_of_ones_own_are_measured_beside_grad_cam() -> None:
    own = f"{__name__}.darkness"
    found = measured(full=True, attributions=(darkness, "occlusion"))
    assert [*found.attention] == [
        "gradcam",
        own,
        "occlusion",
        "wrong_class",
        "another_image",
        "gaussian",
        "edges",
        "gradcam_randomised_1",
    ]
    torch.testing.assert_close(found.attention[own], (0.5 - found.references.mean(1)).clamp_min(0))
    assert list(measured(full=False, attributions=(darkness,)).attention) == ["gradcam"]


def test_attributions_of_ones_own_are_drawn_and_tested_as_such() -> None:
    own = f"{__name__}.darkness"
    found = measured(full=True, count=3, attributions=(darkness,))
    exhibit = study_exhibits(found, found.names, str)[found.names[0]]
    assert [drawn.title for drawn in exhibit.maps][-2:] == ["Grad-CAM", "Darkness"]
    evidence = Evidence.of(photograph_evidence(found, 4))
    claim = Claim("dissimilarity", "gradcam", "spearman", "random", "matched", 0.25)
    findings = analyse([VariantResult("main", "small", evidence)], claim, (0.25,), Inference(0, 0.95, 99))
    tested = {row.second for row in findings.associations if row.shift_score is not None}
    assert tested == {"gradcam", own}
    compared = {row.second for row in findings.comparisons if row.question == "Spearman with 1 − SSIM, by map"}
    assert own in compared

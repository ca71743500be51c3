"""What a study measures on a batch: little or everything, and a new attribution by one entry."""

import pytest
import torch
from torch import Tensor, nn

from percep.choices import REGIONS
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
from percep.study.movement import MOVEMENT, new_classes_of
from percep.study.same_size import pgd_of_the_size_of
from percep.windows import Window

SIDE = 12
SETTING = Setting(None, 0.3, Window.uniform(4, stride=4, padding="valid"), steps=2)


def measured(*, full: bool, count: int = 1, **settings: object) -> Measurements:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = Classifier(network, mean=[0.0] * 3, std=[1.0] * 3).eval()
    images = torch.randint(60, 196, (count, 3, SIDE, SIDE)) / 255
    labels = model(images).argmax(1)
    depth = Depth(4, {0.25: 1}, "random", full, 2, 2, (), 1, **settings)
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


def test_attention_is_followed_to_the_adversarial_image() -> None:
    found = measured(full=True)
    assert tuple(found.movement) == MOVEMENT
    gained = found.movement["adversarial_new_class"] - found.movement["new_class"]
    torch.testing.assert_close(found.movement["appearing"], gained.clamp_min(0))
    lost = found.attention["gradcam"] - found.movement["adversarial"]
    torch.testing.assert_close(found.movement["disappearing"], lost.clamp_min(0))
    assert found.new_classes.tolist() == found.logits_after.argmax(1).tolist() != found.labels.tolist()
    assert {row.region for row in found.regions} == {*REGIONS, "appearing"}
    (evidence,) = photograph_evidence(found, 4)
    expected = found.logits_before.softmax(1)[0, found.labels[0]]
    assert evidence.confidence == pytest.approx(float(expected))
    assert (evidence.label, evidence.new_class) == (int(found.labels), int(found.new_classes))
    assert Evidence.of([evidence]).movement["noise"].shape == (1, 3, 3)


def test_the_new_class_is_the_target_or_the_likeliest_other() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 1.0, 2.0]])
    assert new_classes_of(logits, torch.tensor([0, 0]), None).tolist() == [2, 2]
    assert new_classes_of(logits, torch.tensor([0, 0]), torch.tensor([1, 2])).tolist() == [1, 2]


@pytest.mark.parametrize(("name", "order"), [("pgd_l2", 2), ("pgd_linf", float("inf"))])
def test_pgd_has_the_size_of_the_perturbation(name: str, order: float) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 2))
    model = Classifier(network, mean=[0.0] * 3, std=[1.0] * 3).eval().requires_grad_(False)
    images = torch.full((2, 3, SIDE, SIDE), 0.5)
    delta = torch.tensor([0.01, 0.02]).reshape(2, 1, 1, 1) * torch.randn(2, 3, SIDE, SIDE)
    labels = model(images).argmax(1)
    sizes = torch.linalg.vector_norm(delta.flatten(1), order, dim=1)
    found = pgd_of_the_size_of(name, model, images, delta, labels, None, 10)
    torch.testing.assert_close(torch.linalg.vector_norm(found.flatten(1), order, dim=1), sizes)
    # The greatest gain of a linear model is the size times the dual norm of its slope.
    slope = network[1].weight[1 - labels] - network[1].weight[labels]
    dual = torch.linalg.vector_norm(slope, 2 if order == 2 else 1, dim=1)
    gains = (slope * found.flatten(1)).sum(1)
    torch.testing.assert_close(gains, sizes * dual, rtol=0.02, atol=0)
    towards = pgd_of_the_size_of(name, model, images, delta, labels, 1 - labels, 10)
    torch.testing.assert_close((slope * towards.flatten(1)).sum(1), sizes * dual, rtol=0.02, atol=0)


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
    titles = [drawn.title for drawn in exhibit.maps]
    assert titles.index("Darkness") == titles.index("Grad-CAM") + 1
    evidence = Evidence.of(photograph_evidence(found, 4))
    claim = Claim("dissimilarity", "gradcam", "spearman", "random", "matched", 0.25)
    findings = analyse([VariantResult("main", "small", evidence)], claim, (0.25,), Inference(0, 0.95, 99))
    tested = {row.second for row in findings.associations if row.shift_score is not None}
    assert tested == {"gradcam", own}
    compared = {row.second for row in findings.comparisons if row.question == "Spearman with 1 − SSIM, by map"}
    assert own in compared

"""The study's parts: criteria on planted maps, causal tests of a linear model, perturbations of one size."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from percep import Window, certify
from percep.attacks.quantisation import quantise
from percep.explain import (
    across_images,
    bootstrap_interval,
    dissimilarity,
    iou,
    pointing_game,
    random_gradient,
    relevance_mass,
    sign_flipped,
    ssim_maps,
    top_region,
)
from percep.study import (
    CONTROLS,
    BlockMap,
    Claim,
    Evidence,
    Inference,
    NamedMap,
    PhotographEvidence,
    RegionRow,
    Setting,
    VariantResult,
    analyse,
    evaluate_criteria,
    optimum,
    tables,
    verdict,
)
from percep.study.causal import REGIONS, curve_rows, region_rows
from percep.study.effects import causal_rows
from percep.study.evidence import FOOLED, is_fooled, with_current_names
from percep.study.perturbations import baseline_perturbation, equal_size, gradient_at, in_uniform_ball
from percep.study.tables import OVERLAPS, Comparison, association_rows, comparison_rows
from tests.support.smooth_fields import smooth_fields

INFERENCE = Inference(seed=0, level=0.95, resamples=999)
CLAIM = Claim("dissimilarity", "gradcam", "partial_spearman", "random", "matched", 0.2)
IMAGES = 24
NAMES = [f"photograph {i}" for i in range(IMAGES)]


def fields(seed: int) -> Tensor:
    return smooth_fields(IMAGES, 16, 1.0, seed)


def regions(top: float, matched: float, seed: int = 0) -> list[RegionRow]:
    random = np.random.default_rng(seed)
    rows = []
    for name in NAMES:
        for region, level in (("top", top), ("matched", matched)):
            gain = level + 0.1 * random.standard_normal()
            rows.append(RegionRow(name, 0.2, region, "equal", 0.2, gain, True, True, None))
    return rows


def evidence_of(change: Tensor, control: Tensor, attention: Tensor, texture: Tensor, rows: list[RegionRow]) -> Evidence:
    return Evidence(
        names=NAMES,
        changes={"dissimilarity": change},
        others={"first_order": change, "random": control},
        attention={"gradcam": attention},
        confounds={"texture": texture},
        regions=rows,
    )


def evaluated(change: Tensor, control: Tensor, attention: Tensor, texture: Tensor, rows: list[RegionRow]):
    return evaluate_criteria(CLAIM, evidence_of(change, control, attention, texture, rows), INFERENCE)


def test_a_planted_effect_meets_every_criterion():
    attention, texture = fields(0), fields(1)
    criteria = evaluated(attention + fields(2), texture + fields(3), attention, texture, regions(0.6, 0.3))
    assert [criterion.met for criterion in criteria] == [True, True, True]
    assert verdict(criteria) == "The perturbation falls on what the classifier looks at: 3 of 3 criteria are met"
    causal = criteria[2]
    assert causal.first == pytest.approx(0.6, abs=0.08) and causal.second == pytest.approx(0.3, abs=0.08)
    assert causal.interval.estimate == pytest.approx(causal.first - causal.second)
    assert (
        "0.2" in criteria[0].sentence or "0.6" in criteria[0].sentence or "over 24 photographs" in criteria[0].sentence
    )


def test_a_confound_alone_meets_none():
    texture = fields(1)
    attention, change, control = texture + fields(0), texture + fields(2), texture + fields(3)
    criteria = evaluated(change, control, attention, texture, regions(0.3, 0.3))
    assert [criterion.met for criterion in criteria] == [False, False, False]
    assert (
        verdict(criteria) == "The perturbation does not fall on what the classifier looks at: 0 of 3 criteria are met"
    )
    raw = evaluate_criteria(
        replace(CLAIM, statistic="spearman"),
        evidence_of(change, control, attention, texture, regions(0.3, 0.3)),
        INFERENCE,
    )
    assert raw[0].met and not raw[1].met  # the plain correlation is fooled, its difference from the control is not


def test_what_is_undefined_is_counted_and_meets_nothing():
    attention = fields(0)
    attention[: IMAGES - 10] = 0
    criteria = evaluated(fields(0), fields(1), attention, fields(2), regions(0.3, 0.3))
    assert [criterion.met for criterion in criteria] == [True, True, False]
    assert criteria[0].interval.undefined == IMAGES - 10 and "10 photographs, 14 undefined" in criteria[0].sentence
    assert verdict(criteria).startswith("The perturbation falls in part on")


@pytest.mark.parametrize(("defined", "decided"), [(0, False), (2, False), (5, False), (6, True)])
def test_too_few_photographs_decide_nothing(defined, decided):
    attention = fields(0)
    attention[defined:] = 0
    criteria = evaluated(fields(0), fields(1), attention, fields(2), regions(0.6, 0.3))
    assert criteria[0].met is (True if decided else None)
    assert verdict(criteria).startswith("The perturbation falls on" if decided else "Undecided whether")


def test_noise_is_rejected_at_the_nominal_rate():
    rejected = []
    for trial in range(60):
        first, second = (smooth_fields(IMAGES, 16, 1.0, 1000 + 2 * trial + k) for k in range(2))
        (row, *_) = association_rows("main", [("a", first, "b", second)], {"c": fields(7)}, (), INFERENCE)
        rejected.append((row.low > 0 or row.high < 0, row.shift_p <= 0.05))
    by_interval, by_shifts = np.array(rejected).sum(0)
    assert by_interval <= 10 and by_shifts <= 10  # of 60; a binomial of 0.07 exceeds 10 once in 200


def test_association_rows_hold_every_statistic_with_its_chance_level():
    first, second, texture = fields(0).exp(), fields(1), fields(2)
    rows = list(association_rows("main", [("a", first, "b", second)], {"c": texture}, (0.1, 0.2), INFERENCE))
    assert [(row.statistic, row.share) for row in rows] == [
        ("pearson", None),
        ("spearman", None),
        ("partial_spearman", None),
        *[(name, share) for name in ("iou", "pointing_game", "relevance_mass") for share in (0.1, 0.2)],
    ]
    for row in rows:
        assert row.images == IMAGES and row.undefined == 0
        assert abs(row.estimate - row.chance) < 0.15 and row.low <= row.estimate <= row.high
        assert 0 < row.shift_p <= 1 and 0 < row.exchange_p <= 1
    both = first.log() + second
    planted = next(iter(association_rows("main", [("a", first, "b", both)], {"c": texture}, (), INFERENCE)))
    assert planted.shift_p < 0.01 and planted.exchange_p < 0.01 and planted.other < 0.1 < planted.estimate


@pytest.mark.parametrize("overlap", OVERLAPS)
def test_overlaps_across_images_are_those_of_every_pair(overlap):
    first, second = fields(0).exp(), fields(1).clamp_min(0)  # with ties, and an image that holds nothing
    first[3], second[5] = 0, 1
    measure = {"iou": iou, "pointing_game": pointing_game, "relevance_mass": relevance_mass}[overlap]
    expected = across_images(lambda a, b: measure(a, b, 0.2), first, second)
    found = tables._overlaps_across(overlap, 0.2, first, second)
    defined = np.isfinite(expected)
    assert defined.sum() == (IMAGES - 1) ** 2
    np.testing.assert_allclose(found[defined], expected[defined], rtol=1e-12, atol=1e-15)


def test_comparisons_are_one_family_and_their_intervals_the_bootstrap_s():
    random = np.random.default_rng(0)
    base = random.standard_normal(IMAGES)
    holes = base + random.standard_normal(IMAGES)
    holes[:3] = np.nan
    found = comparison_rows(
        [Comparison("q", "a", "b", base + 1, base), Comparison("q", "a", "c", base, holes)], INFERENCE
    )
    assert found[0].difference == pytest.approx(1) and found[0].adjusted == pytest.approx(2 * found[0].p_value)
    assert (found[1].images, found[1].undefined) == (IMAGES - 3, 3)
    interval = bootstrap_interval(base - holes, 0, 0.95, 999)
    assert (found[1].low, found[1].high) == (interval.low, interval.high)
    assert found[1].first_mean == pytest.approx(base[3:].mean())


SIDE = 32


class _Linear:
    """Two logits of `(B, 3, SIDE, SIDE)` images; the second minus the first is `<slope, x> - offset`."""

    def __init__(self, slope: Tensor, offset: float) -> None:
        self.slope, self.offset = slope, offset

    def __call__(self, images: Tensor) -> Tensor:
        lead = (images * self.slope).flatten(1).sum(1) - self.offset
        return torch.stack([torch.zeros_like(lead), lead], 1)


@pytest.fixture
def photographs() -> Tensor:
    field = smooth_fields(2 * 3, SIDE, 2.0, 5).reshape(2, 3, SIDE, SIDE)
    return quantise(0.5 + 0.1 * field).float()


def test_regions_keep_the_share_of_the_gain_that_lies_inside(photographs):
    generator = torch.Generator().manual_seed(0)
    slope = torch.randn(3, SIDE, SIDE, generator=generator)
    delta = 1e-3 * torch.randn(photographs.shape, generator=generator) + 1e-3 * slope
    attention = torch.rand(2, SIDE, SIDE, generator=generator)
    labels = torch.zeros(2, dtype=torch.int64)
    model = _Linear(slope, 0.0)
    texture = photographs.mean(1).double()
    rows = region_rows(
        ["a", "b"], model, photographs, delta, labels, None, attention, {}, texture, {0.25: 2}, generator
    )
    assert len(rows) == 2 * len(REGIONS) * 2
    gains = {(row.name, row.region): row.gain for row in rows if row.budget == "own"}
    for i, name in enumerate("ab"):
        top = attention[i].flatten().argsort(descending=True)[: SIDE * SIDE // 4]
        inside = torch.zeros(SIDE * SIDE, dtype=torch.bool)
        inside[top] = True
        each = (delta[i] * slope).sum(0).flatten().double()
        assert gains[name, "top"] == pytest.approx(float(each[inside].sum() / each.sum()), rel=1e-3)
        assert gains[name, "top"] + gains[name, "outside"] == pytest.approx(1, rel=1e-3)
    equal = [row for row in rows if row.budget == "equal"]
    assert all(row.reached for row in equal)
    assert all(row.gain > gains[row.name, row.region] for row in equal)  # rescaled from a part to the whole's SSIM
    spent = (1 - ssim_maps(photographs, photographs + delta)).mean(1)
    masses = {(row.name, row.region): row.mass for row in rows}
    inside = top_region(attention, 0.25, generator)  # there are no ties
    for i, name in enumerate("ab"):
        assert masses[name, "top"] == pytest.approx(float(spent[i][inside[i]].sum() / spent[i].sum()))
        assert masses[name, "top"] + masses[name, "outside"] == pytest.approx(1)
    summary = {(row.region, row.budget): row for row in causal_rows("main", rows, INFERENCE)}
    assert summary["top", "own"].gain == pytest.approx(np.mean([gains["a", "top"], gains["b", "top"]]))
    assert summary["matched", "own"].distance is not None and summary["top", "own"].distance is None


def test_a_region_whose_budget_is_out_of_reach_is_counted(photographs):
    delta = torch.zeros_like(photographs)
    delta[:, :, :2, :2] = 1 / 255  # nothing of it lies in the top of the map below
    attention = torch.zeros(2, SIDE, SIDE)
    attention[:, 16:, :] = 1
    model = _Linear(torch.ones(3, SIDE, SIDE), float(photographs[0].sum()))
    labels = torch.zeros(2, dtype=torch.int64)
    generator = torch.Generator().manual_seed(0)
    rows = region_rows(
        ["a", "b"], model, photographs, delta, labels, None, attention, {}, attention.double(), {0.2: 1}, generator
    )
    found = {(row.region, row.budget): row for row in causal_rows("main", rows, INFERENCE)}
    assert found["top", "equal"].out_of_reach == 2 and np.isnan(found["top", "equal"].gain)
    assert found["top", "own"].gain == pytest.approx(0, abs=1e-6)


def test_curves_follow_the_order_they_are_given(photographs):
    slope = torch.zeros(3, SIDE, SIDE)
    slope[:, :8, :8] = 1
    delta = torch.full_like(photographs, 1 / 255)
    order = torch.zeros(2, SIDE, SIDE)
    order[:, :8, :8] = 1
    model, labels = _Linear(slope, 0.0), torch.zeros(2, dtype=torch.int64)
    rows = curve_rows(
        ["a", "b"], model, photographs, delta, labels, None, {"first": order, "last": -order}, side=8, steps=16
    )
    areas = {(row.kind, row.order): row.area for row in rows if row.name == "a"}
    assert areas["insertion", "first"] == pytest.approx(1 - 1 / 32, abs=1e-3)
    assert areas["insertion", "last"] == pytest.approx(1 / 32, abs=1e-3)
    assert areas["deletion", "first"] == pytest.approx(1 - 1 / 32, abs=1e-3)
    assert len(rows[0].progress) == 17


@pytest.mark.parametrize("setting", [Setting(None, 0.99, Window.gaussian()), Setting(0.9, None, Window.gaussian())])
def test_controls_are_8_bit_images_of_the_same_ball(photographs, setting):
    generator = torch.Generator().manual_seed(0)
    slope = torch.randn(3, SIDE, SIDE, generator=generator)
    gradient = slope.expand_as(photographs)
    found = {
        name: optimum(setting, photographs, control(gradient, generator)).delta for name, control in CONTROLS.items()
    } | {"own": optimum(setting, photographs, gradient).delta}
    gains = {}
    for name, delta in found.items():
        images = photographs + delta
        assert certify(photographs, images, setting.floor, setting.mean).within.all(), name
        torch.testing.assert_close(images * 255, (images * 255).round(), rtol=0.0, atol=1e-4)
        gains[name] = (delta * gradient).flatten(1).sum(1)
        assert (dissimilarity(photographs, delta) > 0).all()
    assert (gains["own"] > 0).all() and (gains["sign_flipped"] < 0).all()
    assert (gains["random"].abs() < 0.3 * gains["own"]).all()
    assert (gains["phase_shuffled"].abs() < 0.3 * gains["own"]).all()


def test_an_image_without_a_gradient_is_left_as_it_is(photographs):
    gradient = torch.randn(photographs.shape, generator=torch.Generator().manual_seed(0))
    gradient[0] = 0
    delta = optimum(Setting(None, 0.99, Window.gaussian()), photographs, gradient).delta
    assert not delta[0].any() and delta[1].any()


def test_baselines_and_the_uniform_ball_spend_the_same_as_the_attack(photographs):
    setting = Setting(None, 0.99, Window.gaussian())
    generator = torch.Generator().manual_seed(0)
    slope = torch.randn(3, SIDE, SIDE, generator=generator)
    labels = torch.zeros(2, dtype=torch.int64)
    gradient = gradient_at(_Linear(slope, 0.0), photographs, labels, None, "margin")
    torch.testing.assert_close(gradient, slope.expand_as(photographs))
    budget = torch.tensor([1e-3, 2e-3]).double()
    uniform = in_uniform_ball(setting, photographs, gradient, budget)
    torch.testing.assert_close(dissimilarity(photographs, uniform), budget, rtol=1e-5, atol=0.0)
    # Every window is allowed the same: the perturbation does not know the texture, only the gradient.
    other = in_uniform_ball(setting, photographs.flip(0), gradient, budget)
    directions = [delta.flatten(1) / delta.flatten(1).norm(dim=1, keepdim=True) for delta in (uniform, other)]
    assert ((directions[0] * directions[1]).sum(1) > 0.99).all()

    offset = float((photographs * slope).flatten(1).sum(1).max()) + 0.5
    attacked = baseline_perturbation("pgd_l2", _Linear(slope, offset), photographs, uniform, labels, None, 10, budget)
    torch.testing.assert_close(dissimilarity(photographs, attacked), budget, rtol=1e-5, atol=0.0)
    assert ((attacked * slope).flatten(1).sum(1) > 0).all()
    zero = equal_size(photographs, torch.zeros_like(photographs), budget)
    assert not zero.any()


def test_controls_are_those_of_the_library(photographs):
    generator = torch.Generator().manual_seed(3)
    gradient = torch.randn(photographs.shape, generator=torch.Generator().manual_seed(1))
    same = torch.Generator().manual_seed(3)
    assert torch.equal(CONTROLS["random"](gradient, generator), random_gradient(gradient, same))
    assert torch.equal(CONTROLS["sign_flipped"](gradient, generator), sign_flipped(gradient))


def test_records_of_former_names_are_read_under_the_present_ones():
    block = BlockMap.of(torch.ones(2, 2))
    maps = (NamedMap("changes", "price", block), NamedMap("changes", "price_random", block))
    former = PhotographEvidence("a", "turned", (*maps, NamedMap("attention", "gradcam", block)), ("price", "gradcam"))
    present = with_current_names(former)
    assert present.status == FOOLED and is_fooled("turned")
    assert [named.name for named in present.maps] == ["multiplier", "multiplier_random", "gradcam"]
    assert present.zero == ("multiplier", "gradcam")
    assert with_current_names(present) == present
    evidence = Evidence.of([present, PhotographEvidence("b", "not_found")])
    assert evidence.names == ["a"] and evidence.zero == {"multiplier": 1, "multiplier_random": 0, "gradcam": 1}


def under_a_floor(multiplier: Tensor, control: Tensor, attention: Tensor) -> Evidence:
    evidence = evidence_of(fields(5), fields(6), attention, fields(7), regions(0.3, 0.3))
    return replace(evidence, changes=evidence.changes | {"multiplier": multiplier, "multiplier_random": control})


def test_under_a_floor_the_multiplier_is_a_fourth_criterion():
    attention, texture = fields(0), fields(7)
    criteria = evaluate_criteria(CLAIM, under_a_floor(attention + fields(1), fields(2), attention), INFERENCE)
    assert [criterion.name for criterion in criteria] == ["association", "control", "causal", "multiplier"]
    assert [criterion.met for criterion in criteria] == [False, False, False, True]
    assert verdict(criteria).endswith("falls in part on what the classifier looks at: 1 of 4 criteria are met")
    fourth = criteria[3]
    assert fourth.first > 0.5 and abs(fourth.second) < 0.1
    assert "the multiplier of SSIM with Grad-CAM above" in fourth.sentence
    confounded = under_a_floor(texture + fields(1), texture + fields(2), texture + fields(3))
    assert evaluate_criteria(CLAIM, confounded, INFERENCE)[3].met is False


def test_a_multiplier_that_says_no_more_than_its_control_meets_the_criterion_at_the_nominal_rate():
    met, quick = 0, Inference(seed=0, level=0.95, resamples=99)
    for trial in range(100):
        attention = fields(2000 + 3 * trial)
        found = under_a_floor(fields(2001 + 3 * trial), fields(2002 + 3 * trial), attention)
        met += bool(evaluate_criteria(replace(CLAIM, statistic="spearman"), found, quick)[3].met)
    assert met <= 9  # 2.5% of 100, and more in one of 1,000


def test_a_study_without_movement_or_classes_has_every_other_table():
    attention = fields(0)
    rows = [replace(row, budget=budget) for row in regions(0.6, 0.3) for budget in ("own", "equal")]
    evidence = evidence_of(attention + fields(1), fields(2), attention, fields(3), rows)
    unknown = [None] * IMAGES  # as in the parts of earlier versions
    evidence = replace(evidence, labels=unknown, new_classes=unknown, confidences=unknown)
    main = VariantResult("main", "network", evidence, dict.fromkeys(NAMES, FOOLED), complete=True)
    quick = replace(INFERENCE, resamples=199)
    found = analyse([main], CLAIM, (0.2,), quick, ("confidence", "class_group"), 0)
    assert found.movement == [] and found.strata == []
    tested = [row for row in found.associations if row.shift_p is not None and np.isfinite(row.shift_p)]
    assert tested and all(row.shift_adjusted >= row.shift_p for row in tested)
    assert all(row.exchange_adjusted >= row.exchange_p for row in tested)
    count = 2 * len(tested) + len(found.comparisons)  # relevance mass is undefined where a map is negative
    least = min(row.p_value for row in found.comparisons)
    assert min(row.adjusted for row in found.comparisons) == pytest.approx(count * least, rel=0.3)
    assert {row.question for row in found.comparisons} >= {"gain per unit of 1 − SSIM, 20% of the image"}
    split = analyse([main], CLAIM, (0.2,), quick, ("attended_area",)).strata
    assert sum(row.images for row in split) == IMAGES and all(row.adjusted >= row.p_value for row in split)

"""Attacks side by side: baselines saved with our rounding, pulled back to a floor, and the figures told of them."""

import math

import pytest
import torch

from percep import InputError, certify
from percep.attacks import quantise
from percep.attacks.baselines import Baseline
from percep.attacks.comparison import ATTACK_NAMES, OURS, Outcome, attack_by_name, attempt, outcomes, success_curve
from percep.attacks.criteria import achieved
from percep.attacks.resave import cheapest_saved, pulled_back
from percep.report.comparison.tables import save_curves, summary, table
from tests.attacks.test_frank_wolfe import Linear, saved

LABEL = torch.tensor([0])


def outcome(name: str, cost: float, floor: bool | None = None) -> Outcome:
    return Outcome(name, "a library", cost / 2, cost, cost, floor, 20, 3, 1.5)


@pytest.mark.parametrize("measure", ["mean", "floor"])
def test_the_cheapest_saved_image_on_a_ray_is_adversarial_and_no_dearer_than_plain_rounding(measure):
    x = saved(2)
    model = Linear(x[:1], 3, lead=2.0)
    labels = model(x).argmax(1)
    others = (labels + 1) % 3
    direction = (model.weight[others] - model.weight[labels]).reshape(x.shape)
    # Far beyond the boundary, so that the ray has to be shortened.
    images = (x + 0.02 * direction).clamp(0, 1)
    best, found = cheapest_saved(model, x, images, labels, measure=measure)
    assert found.tolist() == [True, True]
    torch.testing.assert_close(best, quantise(best), rtol=0, atol=0)
    assert bool(achieved(model(best), labels, None).all())

    def cost(y: torch.Tensor) -> torch.Tensor:
        certificate = certify(x, y)
        return 1 - (certificate.mean_ssim if measure == "mean" else certificate.min_ssim)

    assert bool((cost(best) < 0.3 * cost(quantise(images))).all())


def test_a_ray_that_leads_nowhere_gives_the_reference():
    x = saved()
    model = Linear(x, 2, lead=2.0)
    away = (x - 0.01 * (model.weight[1] - model.weight[0]).reshape(x.shape)).clamp(0, 1)
    best, found = cheapest_saved(model, x, away, LABEL)
    assert found.tolist() == [False] and torch.equal(best, x)


def test_pulled_back_depends_on_the_floor():
    x = saved()
    model = Linear(x, 2, lead=3.0)
    images = (x + 0.05 * (model.weight[1] - model.weight[0]).reshape(x.shape).sign()).clamp(0, 1)
    found = [bool(pulled_back(model, x, images, LABEL, None, floor)[0]) for floor in (0.5, 0.9, 0.99999)]
    assert found[0] and not found[-1] and found == sorted(found, reverse=True)


@pytest.mark.slow("compares whole attacks")
def test_outcomes_are_those_of_the_attacks():
    x = saved(2)
    model = Linear(x[:1], 4, lead=0.5)
    labels = model(x).argmax(1)
    for name in (OURS, "ddn", "pgd_l2+8bit"):
        rows = outcomes(name, model, x, labels, gradients=20, floor=0.9)
        attack, origin = attack_by_name(name, model, 20)
        for image, row in enumerate(rows):
            result = attack(x[image : image + 1], labels[image : image + 1], None)
            assert row.attack == name and row.origin == origin
            if name != "pgd_l2+8bit":  # which starts from random numbers
                assert row.float_cost == pytest.approx(1 - float(result.mean_ssim[0]))
            assert row.gradient_calls <= 20 and row.seconds > 0
            assert row.resaved_cost < math.inf and isinstance(row.floor_success, bool)
            if name != "ddn":
                assert row.saved_cost == row.float_cost


def test_an_attempt_keeps_the_image_its_cost_was_measured_on():
    x = saved()
    found = attempt("ddn", Linear(x, 3, lead=1.0), x, LABEL, gradients=20)
    torch.testing.assert_close(found.image, quantise(found.image), rtol=0, atol=0)
    assert found.outcome.resaved_cost == 1 - float(certify(x, found.image).mean_ssim)


def test_an_attempt_without_success_keeps_the_answer_rounded():
    x = saved()
    beyond_reach = Linear(x, 3, lead=1e6)
    found = attempt("fgsm", beyond_reach, x, LABEL, gradients=20)
    answer = attack_by_name("fgsm", beyond_reach, 20)[0](x, LABEL, None).images
    assert found.outcome.resaved_cost == math.inf and torch.equal(found.image, quantise(answer))


@pytest.mark.slow("compares whole attacks")
def test_percep_beats_every_library_on_a_linear_model_as_saved():
    x = saved()
    model = Linear(x, 4, lead=1.0)
    costs = {
        name: outcomes(name, model, x, LABEL, gradients=40)[0]
        for name in ATTACK_NAMES
        if name not in ("fgsm", "perc_al")
    }
    mine = costs.pop(OURS).saved_cost
    assert mine < 0.5 * min(min(row.saved_cost, row.resaved_cost) for row in costs.values())


def test_unknown_attacks_are_refused():
    with pytest.raises(InputError, match="choose percep"):
        attack_by_name("deepfool", Linear(saved()), 20)
    with pytest.raises(InputError, match="cannot round"):
        Baseline("cw", Linear(saved()), eight_bit=True)


def test_curves_and_summaries_count_failures():
    costs, shares = success_curve([3e-4, math.inf, 1e-4, math.inf])
    assert costs == [1e-4, 3e-4] and shares == [0.25, 0.5]
    rows = [outcome("ddn", 1e-4, True), outcome("ddn", math.inf, False), outcome("ddn", math.inf, False)]
    row = summary(rows)
    assert row["saved_cost"] == math.inf and row["saved_success"] == pytest.approx(1 / 3)
    assert row["floor_success"] == pytest.approx(1 / 3) and row["gradient_calls"] == 20
    assert summary([outcome("ddn", 1e-4)])["floor_success"] is None


def test_the_table_ranks_and_the_curves_are_drawn(tmp_path):
    found = {"ddn": [outcome("ddn", 2e-4)], OURS: [outcome(OURS, 1e-5)], "ddn+8bit": [outcome("ddn+8bit", math.inf)]}
    lines = table([summary(rows) for rows in found.values()]).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == [OURS, "ddn", "ddn+8bit"]
    assert "100%, 1.0e-05" in lines[2] and "0%, -" in lines[4]
    save_curves(tmp_path / "curves.png", found, 20)
    assert (tmp_path / "curves.png").stat().st_size > 10_000

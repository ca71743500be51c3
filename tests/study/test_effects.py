"""The gain of a region per unit of 1 - SSIM: known ratios, regions without any, and no difference."""

import numpy as np
import pytest

from percep.study import ComparisonRow, Evidence, Inference
from percep.study.causal import BUDGETS
from percep.study.effects import causal_comparisons, causal_rows
from percep.study.tables import comparison_rows
from tests.support.planted_evidence import FAST, NAMES, ONLY_MEANS, region


def planted(slopes: dict[str, float], seed: int = 0) -> Evidence:
    """Regions whose gain is their mass times a slope, but for noise; the top has twice the mass of others."""
    random = np.random.default_rng(seed)
    rows = []
    for name in NAMES:
        for kind, slope in slopes.items():
            mass = (0.4 if kind == "top" else 0.2) * random.uniform(0.8, 1.2)
            gain = mass * slope * random.uniform(0.9, 1.1)
            rows += [region(name, kind, budget, mass, gain) for budget in BUDGETS]
    return Evidence(names=NAMES, regions=rows)


def compared(evidence: Evidence, question: str, inference: Inference = FAST) -> dict[str, ComparisonRow]:
    rows = comparison_rows(causal_comparisons(evidence, (0.2,)), inference)
    return {row.second: row for row in rows if row.question.startswith(question)}


def test_a_region_with_more_mass_gains_no_more_per_unit() -> None:
    evidence = planted({"top": 1.5, "matched": 1.5, "random": 0.5})
    plain = compared(evidence, "share of the gain, 20% of the image, own")
    assert plain["matched"].low > 0.1 and plain["matched"].adjusted < 0.01
    by_unit = compared(evidence, "gain per unit of 1 − SSIM")
    assert by_unit["matched"].difference == pytest.approx(0, abs=0.06)
    assert by_unit["matched"].adjusted > 0.05
    assert by_unit["random"].difference == pytest.approx(1, abs=0.06) and by_unit["random"].adjusted < 0.01
    table = {(row.region, row.budget): row for row in causal_rows("main", evidence.regions, FAST)}
    assert table["top", "own"].per_unit == pytest.approx(1.5, abs=0.05)
    assert table["top", "own"].per_unit_low < 1.5 < table["top", "own"].per_unit_high
    assert table["top", "equal"].per_unit is None


def test_a_region_without_mass_is_undefined_and_counted() -> None:
    rows = [
        region(name, kind, "own", 0.0 if place < 3 else 0.5, 0.5)
        for place, name in enumerate(NAMES)
        for kind in ("top", "matched")
    ]
    (row, _) = causal_rows("main", rows, FAST)
    assert row.per_unit == 1 and row.gain == 0.5
    evidence = Evidence(
        names=NAMES,
        regions=rows + [region(name, kind, "equal", 0.5, 0.5) for name in NAMES for kind in ("top", "matched")],
    )
    found = compared(evidence, "gain per unit")["matched"]
    assert (found.images, found.undefined) == (len(NAMES) - 3, 3)


def test_equal_slopes_are_told_apart_at_the_nominal_rate() -> None:
    p_values = []
    for seed in range(200):
        found = compared(planted({"top": 1.0, "matched": 1.0}, seed), "gain per unit", ONLY_MEANS)
        p_values.append(found["matched"].p_value)
    assert 2 <= (np.array(p_values) <= 0.05).sum() <= 21  # a binomial of 0.05 in all but one of 1,000
